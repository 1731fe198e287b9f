// Package relay moves messages from the outbox table to a broker, through any Watermill publisher.
//
// Promises:
//   - P4: the messages of one key leave in revision order, with any number of relays. A lane has one owner at a time,
//     and a key never has two messages in flight.
//   - P5: a row leaves the outbox only after the broker confirmed it. Kill -9 anywhere sends again, and loses nothing.
//   - P9: a message that cannot be published stops its own key only, and that until it is given up.
//   - P10: memory is bounded by the batch, and no transaction is open while the broker is waited for.
//
// How it works: live relays share the lanes out among themselves by leases in the database. A relay reads the oldest
// unsent rows of its lanes, publishes them at once, deletes what was confirmed, and starts over. It never remembers
// how far it got, so a row that commits late is found like any other.
//
// Neighbours: internal/store (the tables), envelope (the wire), transport (the broker). Package outbox writes what
// this one reads; neither imports the other.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/transport"
)

// ErrNotMigrated is what Run returns when the outbox tables are missing or older than this version.
var ErrNotMigrated = store.ErrNotMigrated

// Relay publishes the messages of one outbox. Several relays, in one process or many, may work on the same outbox.
type Relay struct {
	cfg       Config
	store     *store.Store
	publisher transport.BatchPublisher
	log       *slog.Logger

	started atomic.Bool
	running chan struct{} // closed once owned lanes
	owned   sync.Once
	stats   counters

	// The rest belongs to Run's goroutine.
	lease    lease
	round    round
	open     results // what became of published messages, not written down yet
	poll     time.Duration
	wake     <-chan struct{}
	broker   outage
	database outage
}

// New makes a relay that publishes through publisher: one that implements transport.BatchPublisher, or any other, one
// message at a time. It talks to neither the database nor the broker; Run does. The publisher stays the caller's to
// close, after Run has returned.
func New(db *bun.DB, publisher message.Publisher, cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	s, err := store.New(db, store.Names{Schema: cfg.Schema, Prefix: cfg.TablePrefix})
	if publisher == nil {
		err = errors.Join(err, errors.New("publisher is nil: pass a Watermill publisher"))
	}
	if err := errors.Join(err, cfg.validate()); err != nil {
		return nil, fmt.Errorf("relay configuration: %w", err)
	}
	log := cfg.Logger.With("relay", cfg.ID)
	longest := cfg.heartbeat()
	return &Relay{
		cfg: cfg, store: s, publisher: transport.Batch(publisher), log: log,
		running:  make(chan struct{}),
		round:    round{limit: cfg.BatchSize},
		poll:     minPoll,
		wake:     cfg.Wake,
		broker:   newOutage("broker", log, longest),
		database: newOutage("database", log, longest),
	}, nil
}

// Run publishes until ctx ends; then it lets the broker confirm what is in flight, writes that down, hands the lanes
// back, and returns nil. It starts without the broker and waits for it; it waits for a database that goes away, too,
// but one that cannot be reached at the start, or has no tables (ErrNotMigrated), ends it.
//
// A publisher that ignores its context holds Run up until it returns.
func (r *Relay) Run(ctx context.Context) error {
	if !r.started.CompareAndSwap(false, true) {
		return errors.New("relay: Run was called before: make a new Relay")
	}
	if err := r.store.RequireMigrated(ctx, store.Outbox); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return fmt.Errorf("relay: %w", err)
	}
	work, cancel := linger(ctx, r.cfg.ShutdownTimeout)
	defer cancel()
	for wait := time.Duration(0); r.pause(ctx, wait); {
		wait = r.pass(ctx, work)
	}
	return r.leave(ctx)
}

// Running is closed when the relay owns lanes for the first time: from then on it publishes what is there.
func (r *Relay) Running() <-chan struct{} { return r.running }

// pass does one round and returns how long to wait before the next one. ctx says whether to go on; work is what it
// works under, and outlasts ctx.
func (r *Relay) pass(ctx, work context.Context) (wait time.Duration) {
	claimed, more, err := r.next(work)
	if err != nil {
		return r.database.begin(err)
	}
	r.database.end()
	if len(claimed) == 0 {
		return r.idle(more)
	}
	done, left, away := r.publish(ctx, work, claimed)
	r.report(done)
	r.open = done
	if err := r.writeDown(work); err != nil {
		return r.database.begin(err)
	}
	if away != nil {
		return r.broker.begin(away)
	}
	r.poll = minPoll
	return r.idle(more || left)
}

// next does everything up to the next claim: what is still to be written down, while the lanes are certainly ours; the
// lease; the claim.
func (r *Relay) next(work context.Context) (claimed []store.Claimed, more bool, err error) {
	ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL) // a database that hangs is one that is away
	defer cancel()
	if err := r.writeDown(ctx); err != nil {
		return nil, false, err
	}
	if err := r.balance(ctx); err != nil {
		return nil, false, err
	}
	return r.claim(ctx)
}

// writeDown records what became of published messages. On error it stays open: the next try writes the same, instead
// of publishing the same again.
func (r *Relay) writeDown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.LeaseTTL)
	defer cancel()
	if err := r.store.Finish(ctx, r.cfg.ID, r.open.lanes, r.open.Outcome); err != nil {
		return err
	}
	r.open = results{}
	return nil
}

// idle returns the time to the next look: none while there is more, else short after work and longer each time.
func (r *Relay) idle(more bool) time.Duration {
	if more {
		return 0
	}
	wait := min(r.poll, r.cfg.heartbeat())
	r.poll = min(2*r.poll, r.cfg.PollInterval)
	return wait
}

// pause waits, for less if woken up, and says whether to go on. In an outage nothing wakes it up.
func (r *Relay) pause(ctx context.Context, wait time.Duration) bool {
	if wait > 0 && ctx.Err() == nil {
		wake := r.wake
		if r.broker.on() || r.database.on() {
			wake = nil
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-ctx.Done():
		case <-timer.C:
		case _, ok := <-wake:
			r.poll = minPoll
			if !ok {
				r.wake = nil
			}
		}
	}
	return ctx.Err() == nil
}

// leave writes down what is still open and hands the lanes back. It has a time of its own, because what was in flight
// may have used up the other.
func (r *Relay) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.ShutdownTimeout)
	defer cancel()
	defer r.stats.lanes.Store(0)
	if err := errors.Join(r.writeDown(ctx), r.store.Leave(ctx, r.cfg.ID)); err != nil {
		return fmt.Errorf("relay: %w (nothing is lost: in %s another relay takes over)", err, r.cfg.LeaseTTL)
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

const minPoll = 5 * time.Millisecond
