package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Run publishes until ctx ends; then it lets the broker confirm what is in flight, writes that
// down, hands the lanes back, and returns nil. Lanes from which something was sent that the broker
// did not answer run out instead. It starts without the broker and waits for it; it waits for a
// database that goes away, too, but one that cannot be reached at the start, or has no tables
// (ErrNotMigrated), ends it.
//
// A publisher that ignores its context holds Run up until it returns.
func (r *Relay) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("relay: Run was called before: make a new Relay")
	}
	if err := r.queue.RequireMigrated(ctx, db.Outbox); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("relay: %w", err)
	}
	r.before(ctx)
	work, cancel := linger(ctx, r.cfg.ShutdownTimeout)
	defer cancel()
	for ctx.Err() == nil {
		r.advance(work)
		r.wait(ctx)
	}
	for r.finishing(work) {
		r.wait(context.Background())
	}
	return r.leave(ctx)
}

// tasks are what runs beside Run's goroutine. Each ends with a function that changes the state,
// which Run calls: so nothing else needs a lock.
type tasks struct {
	done     chan func()
	running  int
	leasing  bool // the lease is being renewed, or lanes given and taken
	claiming bool
	finished bool
	finishAt time.Time // when to write down the next few

	superseding bool
	supersedeAt time.Time // when to try again to remove what others replace
	// How many batches are in flight: of messages just claimed, and of those that follow one of
	// their key.
	first, following int
	messages         int // in all of them
}

func (t *tasks) start(task func() (apply func())) {
	t.running++
	go func() { t.done <- task() }()
}

// advance starts everything that can be done now.
func (r *Relay) advance(work context.Context) {
	now := time.Now()
	if !r.tasks.claiming {
		r.flow.letGo(r.reader.lanes)
	}
	if r.lease.owns() && !r.lease.valid() {
		r.lose(errLeaseOver)
	}
	r.keepLease(work, now)
	r.writeDown(work, now)
	if !r.lease.owns() || r.changing(now) || r.absence.leaving {
		return // the lanes are about to change hands: nothing new may be in flight
	}
	r.supersede(work, now)
	r.publishReady(now)
	r.claim(work, now)
}

// finishing goes on with what must be done before Run may return, and says whether there is any.
func (r *Relay) finishing(work context.Context) bool {
	now := time.Now()
	if r.lease.owns() && !r.lease.valid() {
		r.lose(errLeaseOver)
	}
	if r.tasks.first+r.tasks.following > 0 {
		r.keepLease(work, now)
	}
	if !r.database.on() {
		r.writeDown(work, now)
	}
	return r.tasks.running > 0
}

// wait returns when something has happened or something is due.
func (r *Relay) wait(ctx context.Context) {
	timer := time.NewTimer(time.Until(r.due()))
	defer timer.Stop()
	wake, offers := r.wake, r.cfg.offers()
	if r.broker.on() || r.database.on() {
		wake, offers = nil, nil // an outage has its own pace
	}
	select {
	case apply := <-r.tasks.done:
		r.tasks.running--
		apply()
	case offer := <-offers:
		r.take(offer)
	case <-ctx.Done():
	case <-timer.C:
	case _, ok := <-wake:
		r.reader.hurry()
		if !ok {
			r.wake = nil
		}
	}
}

// due is when the next thing has to be done if nothing happens before.
func (r *Relay) due() time.Time {
	now := time.Now()
	next := now.Add(r.cfg.heartbeat())
	for _, at := range []time.Time{
		r.tasks.finishAt, r.heldAt, r.tasks.supersedeAt, r.lease.beat, r.lease.until, r.reader.at,
		r.broker.retry, r.database.retry,
	} {
		if at.After(now) && at.Before(next) {
			next = at
		}
	}
	return next
}

// quiet says that nothing is in flight, and everything written down.
func (r *Relay) quiet() bool { return r.tasks.running == 0 && r.open.empty() }

// leave writes down what is still open and hands the lanes back. It has a time of its own, because
// what was in flight may have used up the other.
func (r *Relay) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.ShutdownTimeout)
	defer cancel()
	defer r.stats.lanes.Store(0)
	r.lease.end(nil)
	err := r.queue.Finish(ctx, r.cfg.ID, r.open.lanes, r.open.Outcome)
	if !r.held.empty() {
		err = errors.Join(err, r.queue.FinishFree(ctx, r.cfg.ID, r.held.lanes, r.held.Outcome))
	}
	// what may still arrive must not do so behind what the next owner sends (P4)
	if time.Now().Before(r.unsure) {
		err = errors.Join(err, r.queue.SignOff(ctx, r.cfg.ID))
	} else {
		err = errors.Join(err, r.queue.Leave(ctx, r.cfg.ID, r.lease.lanes))
	}
	if err != nil {
		return fmt.Errorf("relay: %w (nothing is lost: in %s another relay takes over)", err,
			r.cfg.LeaseTTL)
	}
	return nil
}

// linger returns a context that ends a while after ctx does.
func linger(ctx context.Context, while time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(while)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-late.Done():
		}
	})
	return late, func() {
		stop()
		cancel()
	}
}
