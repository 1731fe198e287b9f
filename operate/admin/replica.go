package admin

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
)

// Replica is what a replica keeps beside its rows, in one database. It is safe for concurrent use.
type Replica struct{ tables *applied.Tables }

// ReplicaStatus is the state of a replica. Its names in JSON are never changed, only added.
type ReplicaStatus struct {
	// Waiting counts the messages that cannot be applied yet, by model.
	Waiting map[string]int64 `json:"waiting"`
	// DeadLetters counts those that were given up, by model; those of which nobody knows the model
	// are under "". Stuck are both, by model and then by error: the largest groups.
	DeadLetters map[string]int64          `json:"dead_letters"`
	Stuck       map[string][]ReplicaStuck `json:"stuck"`
	// Masters are those that messages came from, of each model in the order in which they came
	// first.
	Masters []KnownMaster `json:"masters"`
	// Databases are others that were found behind the replica's queue.
	Databases []OtherDatabase `json:"other_databases"`
	// Verifications are how the last comparisons with masters ended, as those said.
	Verifications []ReplicaVerification `json:"verifications"`
}

// ReplicaVerification is what a replica knows of the last comparison of all keys of a model with
// its master. Its times are by the clock of the master's database.
type ReplicaVerification struct {
	// Queue is the replica's, Model what was compared.
	Queue string `json:"queue"`
	Model string `json:"model"`
	// Outcome is equal, repaired, differs or unproven, and Found counts the keys that differed, by
	// how. It ended at Ended.
	Outcome string           `json:"outcome"`
	Ended   time.Time        `json:"ended"`
	Found   map[string]int64 `json:"found"`
	// EqualThrough says that what was committed at the master before then was here when it was
	// compared, or something newer of the same key; nil for never.
	EqualThrough *time.Time `json:"equal_through"`
}

// KnownMaster is an incarnation of a master that sent messages of a model.
type KnownMaster struct {
	// Model is the model's CQRS id.
	Model string `json:"model"`
	// Incarnation is empty for one that does not name itself.
	Incarnation string `json:"incarnation"`
	// First and Last are when messages of it came, by the clock of the replica's database.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Current says that it is the latest one of its model.
	Current bool `json:"current"`
	// Returns counts messages that it wrote after one of a later master had come: there are two.
	Returns int64 `json:"returns"`
	// Overtaken counts those that were refused though they were later: it went back.
	Overtaken int64 `json:"overtaken"`
}

// OtherDatabase is one that was found behind the replica's queue: two of them share it by mistake.
type OtherDatabase struct {
	// Queue is the one that is shared, Database the other one's name.
	Queue    string `json:"queue"`
	Database string `json:"database"`
	// First and Last are when it was found, and Times how often.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Times int64     `json:"times"`
}

// Status reads what waits, where messages came from, and who else is behind the queue.
func (r *Replica) Status(ctx context.Context) (st ReplicaStatus, err error) {
	waiting, err := r.tables.CountWaiting(ctx)
	if err != nil {
		return st, err
	}
	masters, _, err := r.tables.Masters(ctx)
	if err != nil {
		return st, err
	}
	neighbours, _, err := r.tables.Neighbours(ctx)
	if err != nil {
		return st, err
	}
	verifications, err := r.tables.Verifications(ctx)
	if err != nil {
		return st, err
	}
	dead, err := r.tables.CountDeadLetters(ctx, "")
	if err != nil {
		return st, err
	}
	stuck, err := r.stuck(ctx, waiting, dead)
	if err != nil {
		return st, err
	}
	st = ReplicaStatus{
		Waiting: waiting, DeadLetters: dead, Stuck: stuck,
		Masters: []KnownMaster{}, Databases: []OtherDatabase{},
		Verifications: make([]ReplicaVerification, len(verifications)),
	}
	for i, v := range verifications {
		st.Verifications[i] = ReplicaVerification{
			Queue: v.Queue, Model: v.Model, Outcome: v.Outcome, Ended: v.Ended, Found: v.Found,
			EqualThrough: timeOrNil(v.Through),
		}
	}
	for i, m := range masters {
		st.Masters = append(st.Masters, KnownMaster{
			Model: m.Model, Incarnation: m.Incarnation, First: m.First, Last: m.Last,
			Current: i == len(masters)-1 || masters[i+1].Model != m.Model,
			Returns: m.Returns, Overtaken: m.Overtaken,
		})
	}
	for _, n := range neighbours {
		st.Databases = append(st.Databases, OtherDatabase{n.Queue, n.ID, n.First, n.Last, n.Times})
	}
	return st, nil
}

// Now is the time by the clock of the replica's database.
func (r *Replica) Now(ctx context.Context) (time.Time, error) { return r.tables.Now(ctx) }

// stuck groups by error what was not applied of each model.
func (r *Replica) stuck(
	ctx context.Context, waiting, dead map[string]int64,
) (map[string][]ReplicaStuck, error) {
	groups := map[string][]ReplicaStuck{}
	for _, counts := range []map[string]int64{waiting, dead} {
		for model := range counts {
			if _, done := groups[model]; done {
				continue
			}
			all, err := r.tables.StuckOf(ctx, "", model, "", applied.StuckRead)
			if err != nil {
				return nil, err
			}
			groups[model] = []ReplicaStuck{}
			for _, g := range applied.GroupStuck(all) {
				groups[model] = append(groups[model], ReplicaStuck(g))
			}
		}
	}
	return groups, nil
}
