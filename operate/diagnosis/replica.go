package diagnosis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/operate/admin"
)

// ReplicaState is how things stand with one replica, by what its own database has: nobody there
// knows whether the master or the broker is away. Its names in JSON are never changed, only added.
type ReplicaState struct {
	// At is the time by the clock of the replica's database.
	At time.Time `json:"at"`
	// Sentence says all of it in one line, or the first trouble.
	Sentence string `json:"sentence"`
	// Troubles are what is wrong. Empty: all is well.
	Troubles []Trouble `json:"troubles"`
	// Status is what they were found in.
	Status admin.ReplicaStatus `json:"-"`
}

// ReadReplica is OfReplica where the database may be away: the state says so beside the error.
func ReadReplica(ctx context.Context, tables *admin.Tables, c Config) (ReplicaState, error) {
	r, err := tables.Replica(ctx)
	if err == nil {
		var s ReplicaState
		if s, err = OfReplica(ctx, r, c); err == nil {
			return s, nil
		}
	}
	found := State{At: time.Now().UTC(), Troubles: []Trouble{}}
	if tables.Ping(ctx) != nil {
		found.add(Trouble{Kind: ReplicaDatabaseAway, Why: err.Error(),
			What: said(ReplicaDatabaseAway, 0)})
	}
	return ReplicaState{At: found.At, Sentence: found.first(), Troubles: found.Troubles}, err
}

// OfReplica reads how things stand with a replica.
func OfReplica(ctx context.Context, r *admin.Replica, c Config) (ReplicaState, error) {
	status, err := r.Status(ctx)
	if err != nil {
		return ReplicaState{}, err
	}
	now, err := r.Now(ctx)
	if err != nil {
		return ReplicaState{}, err
	}
	found := State{At: now, Troubles: []Trouble{}}
	known := replicaOf(status)
	for _, m := range known.Models {
		found.findModel(known, m, c.withDefaults())
	}
	for _, m := range status.Masters {
		if m.Current && m.Overtaken > 0 {
			found.add(Trouble{Kind: WentBack, Model: m.Model, Since: m.Last,
				What: said(WentBack, 1, counted(m.Overtaken, "change", "changes"), printable(m.Model)),
				Why:  "the master's database went back to an earlier state"})
		}
	}
	found.sort()
	s := ReplicaState{At: now, Troubles: found.Troubles, Status: status}
	if s.Sentence = found.first(); s.Sentence == "" {
		s.Sentence = "Everything that came is applied. " + found.equalHere(known)
	}
	return s, nil
}

// replicaOf is what a replica knows of itself, as its master would know it.
func replicaOf(st admin.ReplicaStatus) admin.KnownReplica {
	known := admin.KnownReplica{}
	models := map[string]*admin.ReplicaModel{}
	model := func(id string) *admin.ReplicaModel {
		if models[id] == nil {
			models[id] = &admin.ReplicaModel{Model: id}
		}
		return models[id]
	}
	for id, groups := range st.Stuck {
		model(id).Stuck = groups
	}
	for id, n := range st.DeadLetters {
		model(id).DeadLetters = n
	}
	for _, v := range st.Verifications {
		m := model(v.Model)
		known.Queue = v.Queue
		m.EqualThrough = v.EqualThrough
		m.Verification = &admin.Verification{
			Queue: v.Queue, Model: v.Model, Outcome: v.Outcome, Ended: v.Ended, Found: v.Found,
		}
	}
	for _, id := range slices.Sorted(maps.Keys(models)) {
		known.Models = append(known.Models, *models[id])
	}
	return known
}

// equalHere says through when the models of a replica were proven equal.
func (s *State) equalHere(known admin.KnownReplica) string {
	var through time.Time
	for _, m := range known.Models {
		if m.EqualThrough == nil {
			return "Not compared with its master yet."
		}
		if through.IsZero() || m.EqualThrough.Before(through) {
			through = *m.EqualThrough
		}
	}
	if through.IsZero() {
		return "Not compared with its master yet."
	}
	return fmt.Sprintf("Equal to its master as of %s.", s.clock(through))
}
