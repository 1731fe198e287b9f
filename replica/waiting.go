package replica

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// maintenance is what this process knows about the messages in the waiting room, and of those that
// wait in memory where there is no database.
type maintenance struct {
	orphans  atomic.Bool  // some may wait for a parent
	inMemory atomic.Int64 // how many wait so
	wake     chan struct{}
	turn     chan struct{} // holds a token while somebody maintains
}

func (w *maintenance) init() {
	w.wake = make(chan struct{}, 1)
	w.turn = make(chan struct{}, 1)
}

// nudge makes Maintain look again.
func (w *maintenance) nudge() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// release makes due what waits for rows that are there now. It costs nothing while nothing waits.
func (e *engine) release(arrived []db.Key) {
	if len(arrived) == 0 || !e.maintenance.orphans.Load() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	released, err := e.room.releaseWaiting(ctx, arrived)
	if err != nil {
		e.log.Warn("messages that wait for a row which is there now come later, by their pauses",
			"error", err)
	}
	if released > 0 {
		e.maintenance.nudge()
	}
}

const (
	releaseTimeout = 10 * time.Second
	// claimLease is how long a claimed message is nobody else's; when its process dies, it is due
	// again after that.
	claimLease = time.Minute
	// pollEvery is how often Maintain looks for what other processes put off, or left behind.
	pollEvery = time.Second
	// collectEvery is how often tombstones are collected, in chunks of collectChunk.
	collectEvery = time.Hour
	collectChunk = 1000
)

// Maintain applies what waits in replica_waiting when its time has come, and collects old
// tombstones, until ctx ends. Run and AddHandlers do it themselves; only who feeds Handler by other
// means has to call it. One at a time works, others wait for their turn.
func (r *Replica) Maintain(ctx context.Context) error {
	if err := r.start(); err != nil || r.room == nil {
		return err
	}
	select {
	case r.maintenance.turn <- struct{}{}:
		defer func() { <-r.maintenance.turn }()
	case <-ctx.Done():
		return nil
	}
	var collecting sync.WaitGroup
	defer collecting.Wait()
	collecting.Go(func() { r.collect(ctx) })
	collecting.Go(func() { r.watchMasters(ctx) })
	collecting.Go(func() { r.lookForGaps(ctx) })
	for ctx.Err() == nil {
		in, err := r.retryDue(ctx)
		switch {
		case err == nil:
			r.trouble.over("waiting")
		case ctx.Err() == nil:
			if r.trouble.worth("waiting", err) {
				r.log.Warn("cannot look for waiting messages", "error", err)
			}
			in = pollEvery
		}
		timer := time.NewTimer(in)
		select {
		case <-timer.C:
		case <-r.maintenance.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return nil
}

// retryDue tries what is due, and says when to look again.
func (e *engine) retryDue(ctx context.Context) (time.Duration, error) {
	for {
		in, some, err := e.room.nextWaiting(ctx)
		if err != nil {
			return 0, err
		}
		e.maintenance.orphans.Store(some)
		if !some || in > 0 {
			if !some {
				in = pollEvery
			}
			return min(in, pollEvery), nil
		}
		claimed, err := e.room.claimWaiting(ctx, e.config.Batch, claimLease)
		if err != nil {
			return 0, err
		}
		if len(claimed) == 0 { // another process was faster
			return pollEvery, nil
		}
		e.again(ctx, claimed)
	}
}

// again applies claimed messages and returns when each has its new fate.
func (e *engine) again(ctx context.Context, claimed []applied.Waiting) {
	var unfinished countdown
	unfinished.Add(len(claimed))
	deliveries := make([]*delivery, len(claimed))
	for i, w := range claimed {
		deliveries[i] = e.read(waited(ctx, &unfinished, w))
	}
	e.submit(deliveries...)
	unfinished.Wait()
}

// waited is a message that was waiting, as it comes again.
func waited(ctx context.Context, from deliverer, w applied.Waiting) delivery {
	return delivery{
		ctx: ctx, from: from, body: w.Body, headers: w.Metadata,
		past: past{
			attempts: w.Attempts, since: w.Since, claimed: &w.Applied, awaits: w.Awaits,
			gapIn: w.GapIn,
		},
	}
}

// Waiting returns how many messages wait for another try, per model.
func (r *Replica) Waiting(ctx context.Context) (map[string]int64, error) {
	if r.room == nil {
		return map[string]int64{"": r.maintenance.inMemory.Load()}, nil
	}
	return r.room.countWaiting(ctx)
}

// collect deletes tombstones that no late message can need.
func (r *Replica) collect(ctx context.Context) {
	if r.config.KeepTombstones < 0 {
		return
	}
	for pause := rand.N(collectEvery); ; pause = collectEvery {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if n, err := r.CollectTombstones(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("cannot collect tombstones", "error", err)
		} else if n > 0 {
			r.log.Info("tombstones collected", "keys", n)
		}
	}
}

// CollectTombstones forgets the deleted keys that are older than Config.KeepTombstones, now, and
// says how many. Maintain does it every hour.
func (r *Replica) CollectTombstones(ctx context.Context) (total int64, err error) {
	if r.room == nil || r.config.KeepTombstones < 0 {
		return 0, nil
	}
	for {
		n, err := r.room.collectTombstones(ctx, r.config.KeepTombstones, collectChunk)
		total += n
		if err != nil || n < collectChunk {
			return total, err
		}
	}
}
