// Package relay moves messages from the outbox table to a broker, through any Watermill publisher.
//
// Promises:
//   - P4: the messages of one key leave in revision order, with any number of relays. A lane has
//     one owner at a time, a key has one message in flight, and a message leaves once those that it
//     replaces are gone from the outbox: so the first publication of a revision is never after that
//     of a newer one.
//   - P5: a row leaves the outbox only after the broker confirmed it, or when a newer message of
//     its key replaces it. Kill -9 anywhere sends again, and loses nothing.
//   - P9: a message that cannot be published stops its own key only, and that until it is replaced
//     or given up.
//   - P10: memory is bounded by the batch, no transaction is open while the broker is waited for,
//     and neither a backlog nor a snapshot held elsewhere makes a claim slower.
//
// How it works: live relays share the lanes out among themselves by leases in the database. A relay
// reads the oldest unsent rows of its lanes, drops those that newer ones replace, publishes the
// rest, and deletes what was confirmed. It reads, publishes and deletes at the same time, each for
// another part of the backlog. What tells a row that is to be sent is that it is there: how far a
// lane was read is remembered to save work, and is looked behind again and again.
//
// What a box in the same process has just committed it may be handed instead of reading it
// (Config.Handover).
//
// Where to read: run.go is the loop, flow.go what is in memory, handover.go what came there unread,
// lane.go how far lanes were read, schedule.go when and plan.go what to read next, lease.go the
// ownership and absence.go when it is left to others; read.go, supersede.go, publish.go and
// finish.go are the things that are done at the same time.
//
// Neighbours: internal/queue (the tables), envelope (the wire), transport (the broker). Package
// outbox writes what this one reads; neither imports the other.
package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/tables"
	"github.com/cqrsync/cqrsync/transport"
)

// ErrNotMigrated is what Run returns when the outbox tables are missing or older than this version.
var ErrNotMigrated = tables.ErrNotMigrated

// Relay publishes the messages of one outbox. Several relays, in one process or many, may work on
// the same outbox.
type Relay struct {
	cfg       Config
	queue     Queue
	publisher transport.BatchPublisher
	log       *slog.Logger
	jitter    func() float64

	started atomic.Bool
	running chan struct{} // closed once owned lanes
	owned   sync.Once
	stats   counters

	// The rest belongs to Run's goroutine.
	tasks    tasks
	lease    lease
	reader   reader
	flow     flow
	open     results // what became of published messages, not written down yet
	held     results // the same, of keys of which others hold rows locked
	heldAt   time.Time
	wake     <-chan struct{}
	absence  absence
	unsure   time.Time // until then something may be on its way to the broker of which nobody knows
	broker   outage
	topics   destinations
	database outage
	asked    string // what the database did not answer last

	incarnation string // of the database
}

// New makes a relay that publishes through publisher: one that implements transport.BatchPublisher,
// or any other, one message at a time. It talks to neither the database nor the broker; Run does.
// The publisher stays the caller's to close, after Run has returned.
func New(bunDB *bun.DB, publisher message.Publisher, cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	d, err := db.New(bunDB, db.Names{Schema: cfg.Schema, Prefix: cfg.TablePrefix})
	var q database
	if err == nil {
		q = database{queue.New(d), tables.New(d)}
	}
	r, err2 := Over(q, publisher, cfg)
	if err := errors.Join(err, err2); err != nil {
		return nil, fmt.Errorf("relay configuration: %w", err)
	}
	d.Limit(cfg.LeaseTTL, func(holders string) {
		r.log.Warn("waiting for another transaction: end it if it does not end by itself",
			"holders", holders)
	})
	return r, nil
}

// database is the queue of an outbox in a database.
type database struct {
	*queue.Queue
	*tables.Migrator
}

// Over is New for cqrsync's own tests, which run relays over a queue in memory.
func Over(q Queue, publisher message.Publisher, cfg Config) (*Relay, error) {
	cfg = cfg.withDefaults()
	err := cfg.validate()
	if publisher == nil {
		err = errors.Join(errors.New("publisher is nil: pass a Watermill publisher"), err)
	}
	if err != nil {
		return nil, err
	}
	log, jitter := cfg.Logger.With("relay", cfg.ID), jitterOf(cfg.ID)
	return &Relay{
		cfg: cfg, queue: q, publisher: transport.Batch(publisher), log: log,
		running:  make(chan struct{}),
		jitter:   jitter,
		tasks:    tasks{done: make(chan func())},
		reader:   newReader(cfg),
		flow:     newFlow(cfg),
		wake:     cfg.Wake,
		broker:   newOutage("broker", log, cfg, jitter),
		topics:   newDestinations(cfg, log, jitter),
		database: newOutage("database", log, cfg, jitter),
	}, nil
}

// Running is closed when the relay owns lanes for the first time: from then on it publishes what is
// there.
func (r *Relay) Running() <-chan struct{} { return r.running }

const minPoll = 5 * time.Millisecond
