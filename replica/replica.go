package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	ledgers "github.com/cqrsync/cqrsync/internal/ledger"
)

// Replica applies messages to one database. Register and Handle first, then Run; from then on it is
// safe for concurrent use.
type Replica struct {
	engine
	ledger *ledgers.Ledger // nil where there is no database

	mu      sync.Mutex // guards models and order until the first message, and these two
	errs    []error
	started bool

	registerEvery time.Duration // shorter in tests

	running    chan struct{}
	nowRunning sync.Once // closes running
}

// idleLimit is how long a transaction may stand still before the database ends it: a process that
// was stopped then holds up nobody any more.
const idleLimit = 10 * time.Second

// New checks the configuration, all of it at once. It does not talk to the database.
//
// db may be nil for a replica that has only HandleFunc models and Config.DeadLetters: without a
// ledger every message that arrives is handed over, duplicates and old ones too, and what waits for
// another try waits in memory, its message without an ack.
func New(db *bun.DB, config Config) (*Replica, error) {
	config = config.withDefaults()
	err := config.validate()
	r := &Replica{running: make(chan struct{}), registerEvery: registerEvery}
	r.init(config)
	r.db = db
	if db != nil {
		var storeErr error
		r.tables, storeErr = newOwnTables(db, config)
		if storeErr == nil {
			r.ledger = ledgers.NewReplica(r.tables.Database)
			r.room = tableRoom{db, r.tables}
			r.limit(idleLimit)
		}
		err = errors.Join(err, storeErr)
	} else if config.DeadLetters == nil {
		err = errors.Join(err, errors.New("db is nil and DeadLetters too: "+
			"pass the *bun.DB of the service, or a publisher for messages that cannot be handled"))
	}
	if err != nil {
		return nil, fmt.Errorf("replica configuration: %w", err)
	}
	return r, nil
}

// limit bounds the replica's transactions.
func (r *Replica) limit(idle time.Duration) {
	r.tables.Limit(idle, func(holders string) {
		r.log.Warn("waiting for another transaction: end it if it does not end by itself",
			"holders", holders)
	})
}

// Migrate creates or upgrades the replica's tables: its ledger, what waits, and its dead letters.
// The tables that models are mirrored into are the service's own.
func (r *Replica) Migrate(ctx context.Context) error {
	if r.tables == nil {
		return nil
	}
	_, err := r.tables.Migrate(ctx, db.Replica)
	return err
}

// start ends the time of registration, or returns every registration error there was.
func (r *Replica) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := errors.Join(r.errs...); err != nil {
		return err
	}
	if len(r.models) == 0 {
		return errors.New("no model is registered: call replica.Register or replica.Handle first")
	}
	r.started = true
	return nil
}
