package monitor

import (
	"context"
	"sync"
	"time"
)

// Replica is what a Monitor shows of a replica that has reported to the master.
type Replica struct {
	Queue string
	// Lag is how late it is; nil where that is not known yet.
	Lag *time.Duration
	// Silent says that it has not reported for three of its intervals.
	Silent bool
	// Vanished is when its queue was missing on the broker last; zero for never.
	Vanished time.Time
	Models   []ReplicaModel
}

// ReplicaModel is how things stand with a model on a replica.
type ReplicaModel struct {
	Model                string
	Waiting, DeadLetters int64
	// AppliedPerSecond is what its processes applied lately, all together.
	AppliedPerSecond float64
	// EqualThrough says through when it is proven to have all; zero where that is not known.
	EqualThrough time.Time
}

// Replicas tell a Monitor of the replicas of the relay's master.
type Replicas struct {
	// Read returns those that are known.
	Read func(ctx context.Context) ([]Replica, error)
	// Ready returns why a queue of theirs is not there, nil where all are.
	Ready func() error
}

// WatchReplicas has the monitor show replicas, too. Call it once, before Run of the relay.
func (m *Monitor) WatchReplicas(r Replicas) { m.replicas.Store(&watchedReplicas{Replicas: r}) }

// watchedReplicas asks the database seldom, however often somebody looks.
type watchedReplicas struct {
	Replicas

	mu     sync.Mutex
	until  time.Time
	answer []Replica
	err    error
}

// replicasFresh is how long an answer is used.
const replicasFresh = 10 * time.Second

func (w *watchedReplicas) get(ctx context.Context, timeout time.Duration) ([]Replica, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Now().Before(w.until) {
		return w.answer, w.err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	w.answer, w.err = w.Read(ctx)
	w.until = time.Now().Add(replicasFresh)
	return w.answer, w.err
}

// Names are never changed, only added.
var (
	replicaLag = gauge("cqrsync_master_replica_lag_seconds",
		"How late a replica is, from a commit at the master to its effect.", "queue")
	replicaSilent = gauge("cqrsync_master_replica_silent",
		"1 while a replica has not reported for three of its intervals.", "queue")
	replicaVanished = gauge("cqrsync_master_replica_queue_vanished_timestamp_seconds",
		"When the queue of a replica was missing on the broker last, and what was in it lost; 0 "+
			"for never.", "queue")
	replicaWaiting = gauge("cqrsync_master_replica_waiting_messages",
		"Messages that a replica cannot apply yet, as it reports.", "queue", "model")
	replicaDeadLetters = gauge("cqrsync_master_replica_dead_letters",
		"Messages that a replica gave up, as it reports.", "queue", "model")
)

var (
	replicaApplied = gauge("cqrsync_master_replica_applied_per_second",
		"Messages that a replica applied lately, as it reports.", "queue", "model")
	replicaEqual = gauge("cqrsync_master_replica_equal_through_timestamp_seconds",
		"Through when a replica is proven to have all changes; missing where that is not known.",
		"queue", "model")
)

func (m *Monitor) collectReplicas(ctx context.Context, send sender) {
	w := m.replicas.Load()
	if w == nil {
		return
	}
	all, err := w.get(ctx, m.config.QueryTimeout)
	if err != nil {
		return // cqrsync_outbox_readable says it
	}
	for _, r := range all {
		if r.Lag != nil {
			send(replicaLag, r.Lag.Seconds(), r.Queue)
		}
		send(replicaSilent, oneIf(r.Silent), r.Queue)
		at := 0.0
		if !r.Vanished.IsZero() {
			at = float64(r.Vanished.UnixMilli()) / 1000
		}
		send(replicaVanished, at, r.Queue)
		for _, model := range r.Models {
			send(replicaWaiting, float64(model.Waiting), r.Queue, model.Model)
			send(replicaDeadLetters, float64(model.DeadLetters), r.Queue, model.Model)
			send(replicaApplied, model.AppliedPerSecond, r.Queue, model.Model)
			if !model.EqualThrough.IsZero() {
				send(replicaEqual, float64(model.EqualThrough.UnixMilli())/1000, r.Queue, model.Model)
			}
		}
	}
}

// queuesMissing returns why a queue of a replica is not there.
func (m *Monitor) queuesMissing() error {
	if w := m.replicas.Load(); w != nil && w.Ready != nil {
		return w.Ready()
	}
	return nil
}
