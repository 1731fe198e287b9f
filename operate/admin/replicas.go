package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/registry"
)

// KnownReplica is a replica that has reported to the master (package converge). Its names in JSON
// are never changed, only added.
type KnownReplica struct {
	// Queue is its name.
	Queue string `json:"queue"`
	// Models are those that it takes from this master.
	Models []ReplicaModel `json:"models"`
	// Instances counts the processes that report.
	Instances int `json:"instances"`
	// Libraries are the versions of cqrsync that they run.
	Libraries []string `json:"libraries"`
	// First is when the first report came, Reported when the last one did, by the clock of the
	// master's database.
	First    time.Time `json:"first"`
	Reported time.Time `json:"reported"`
	// Silent says that it has not reported for three of its intervals.
	Silent bool `json:"silent"`
	// LagSeconds is how late it is, from a commit at the master to its effect; nil where that is
	// not known yet. All that was committed before Through is with it.
	LagSeconds *float64   `json:"lag_seconds"`
	Through    *time.Time `json:"through"`
	// Vanished is when its queue was missing on the broker last, and was made again.
	Vanished *time.Time `json:"queue_vanished"`
}

// ReplicaModel is how things stand with a model on a replica.
type ReplicaModel struct {
	// Model is its CQRS id.
	Model string `json:"model"`
	// Newest is the latest change that was applied since its processes started, by the master's
	// clock.
	Newest *time.Time `json:"newest"`
	// AppliedPerSecond is what its processes applied lately, all together.
	AppliedPerSecond float64 `json:"applied_per_second"`
	// Waiting messages cannot be applied yet, DeadLetters were given up.
	Waiting     int64 `json:"waiting"`
	DeadLetters int64 `json:"dead_letters"`
	// Stuck are those, grouped by error: the largest groups.
	Stuck []ReplicaStuck `json:"stuck"`
	// EqualThrough says that what was committed at the master before then is with the replica, or
	// something newer of the same key; nil where that is not known. Verified is how the last
	// comparison ended: equal, repaired, differs or unproven.
	EqualThrough *time.Time `json:"equal_through"`
	Verified     string     `json:"verified"`
	// Verification is that comparison, nil before the first.
	Verification *Verification `json:"-"`
	// Asked counts the keys that its processes asked the master for since they started, by cause.
	Asked map[string]int64 `json:"asked"`
	// Backfill is the last one of the model, nil where there was none.
	Backfill *ReplicaBackfill `json:"backfill"`
}

// ReplicaStuck is what a replica did not apply for one reason. Its names in JSON are never changed.
type ReplicaStuck struct {
	// Dead says that the messages were given up; else they wait. Error is what the latest of them
	// failed with.
	Dead  bool   `json:"dead"`
	Error string `json:"error"`
	// Count is how many there are among those that the replica looked at, First and Last when they
	// began to wait, or were given up, by its clock. Keys are some of them.
	Count int       `json:"count"`
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	Keys  []string  `json:"keys"`
}

// Replicas returns the replicas that are known, by name.
func (m *Master) Replicas(ctx context.Context) ([]KnownReplica, error) {
	known, now, err := m.registry.Replicas(ctx)
	if err != nil {
		return nil, err
	}
	backfills, _, err := m.registry.Backfills(ctx)
	if err != nil {
		return nil, err
	}
	verified, err := m.Verifications(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]KnownReplica, len(known)) // never nil: in JSON it is a list
	for i, r := range known {
		if all[i], err = knownReplica(r, now); err != nil {
			return nil, err
		}
		for k := range all[i].Models {
			all[i].Models[k].Backfill = backfillOf(backfills, r.Queue, all[i].Models[k].Model, now)
		}
		addVerified(&all[i], verified)
	}
	return all, nil
}

// ForgetReplica ends what the master knows of a replica, and says whether it was known. Its queue
// stays on the broker, for whoever removes that. A replica that goes on is known again soon.
func (m *Master) ForgetReplica(ctx context.Context, queue string) (known bool, err error) {
	return m.registry.Forget(ctx, queue)
}

func addVerified(k *KnownReplica, all []Verification) {
	for _, v := range all {
		for i := range k.Models {
			if m := &k.Models[i]; v.Queue == k.Queue && v.Model == m.Model {
				m.EqualThrough, m.Verified = v.EqualThrough, v.Outcome
				m.Verification = new(v)
			}
		}
	}
}

func knownReplica(r registry.Replica, now time.Time) (k KnownReplica, err error) {
	k = KnownReplica{
		Queue: r.Queue, First: r.First, Reported: r.Reported, Silent: r.SilentAt(now),
		Through: timeOrNil(r.Through), Vanished: timeOrNil(r.Vanished), Libraries: []string{},
	}
	if lag, known := r.LagAt(now); known {
		k.LagSeconds = new(lag.Seconds())
	}
	models := make(map[string]*ReplicaModel, len(r.Models))
	for _, id := range r.Models {
		k.Models = append(k.Models, ReplicaModel{
			Model: id, Asked: map[string]int64{}, Stuck: []ReplicaStuck{},
		})
	}
	for i := range k.Models {
		models[k.Models[i].Model] = &k.Models[i]
	}
	for _, one := range r.Instances {
		if now.Sub(one.Reported) > 3*one.Pace && !k.Silent {
			continue // it is gone, and others are there
		}
		k.Instances++
		if err := addReport(&k, models, one.Report); err != nil {
			return k, fmt.Errorf("the report of %s of the replica %q: %w", one.Name, r.Queue, err)
		}
	}
	slices.Sort(k.Libraries)
	k.Libraries = slices.Compact(k.Libraries)
	return k, nil
}

// addReport adds what a process says. Those of one replica have one database, so what they say of
// it is the same, and the newest report comes first.
func addReport(k *KnownReplica, models map[string]*ReplicaModel, text json.RawMessage) error {
	var report struct {
		Library string `json:"library"`
		Models  []struct {
			ID          string           `json:"id"`
			Newest      *time.Time       `json:"newest"`
			Rate        float64          `json:"rate"`
			Waiting     int64            `json:"waiting"`
			DeadLetters int64            `json:"dead_letters"`
			Stuck       []ReplicaStuck   `json:"stuck"`
			Asked       map[string]int64 `json:"asked"`
		} `json:"models"`
	}
	if err := json.Unmarshal(text, &report); err != nil {
		return err
	}
	k.Libraries = append(k.Libraries, report.Library)
	for _, said := range report.Models {
		m := models[said.ID]
		if m == nil {
			continue
		}
		if k.Instances == 1 {
			m.Waiting, m.DeadLetters = said.Waiting, said.DeadLetters
			m.Stuck = append(m.Stuck, said.Stuck...)
		}
		if said.Newest != nil && (m.Newest == nil || said.Newest.After(*m.Newest)) {
			m.Newest = said.Newest
		}
		m.AppliedPerSecond += said.Rate
		for cause, n := range said.Asked {
			m.Asked[cause] += n
		}
	}
	return nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
