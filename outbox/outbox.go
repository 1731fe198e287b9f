// Package outbox is the master side of cqrsync: it notices what a transaction does to registered
// models and appends one message per changed entity to the outbox, in that same transaction.
//
// What it promises (the numbers are those of the README):
//
//   - P1: a message exists if and only if the business transaction committed.
//   - P2: every write that goes through bun to a registered table is captured, or refused with a
//     [RefusedError] that names the call to use instead. Statements on *sql.DB, *sql.Tx or prepared
//     statements do not go through bun: report them with [Box.Saved] and [Box.Deleted].
//   - P3: one message per entity per transaction, carrying the state at commit.
//   - P4, P7: the revision of a key is drawn under a lock that is held until commit, and outlives
//     the row.
//
// How: during the transaction, capture only collects keys. Right before COMMIT the flush locks the
// keys in the ledger, reads their rows, and appends the messages; three statements, whatever the
// number of rows. Reading after locking is what makes entities of several rows right: whoever gets
// the lock second reads what the first one committed.
//
// Neighbours: package relay sends what this one appends; package envelope is the form it is sent
// in. Package outbox depends on bun and on neither a broker nor a database driver.
package outbox

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// Box is the outbox of one database. Make it once, register the models, then use it from any number
// of goroutines.
type Box struct {
	db             *bun.DB
	own            *db.Database // with cqrsync's own tables, behind these four
	migrator       *tables.Migrator
	catalog        *catalog.Catalog
	ledger         *ledger.Revisions
	writer         *master.Writer
	contextHeaders func(ctx context.Context) map[string]string
	trace          func(ctx context.Context) (context.Context, func(error))
	log            *slog.Logger
	prepare        bool
	finite         bool
	observer       *observer // nil where what cannot be captured is refused
	wake           chan struct{}
	handover       atomic.Pointer[handover.Handover] // nil while nobody asked for it
	// wakes relays in other processes; nil where nothing does
	away *announcer
	// other names under which registered tables are written
	kin            atomic.Pointer[kin]
	captures       atomic.Pointer[captures] // which tables have triggers
	schema, prefix string                   // of cqrsync's tables
	checked        atomic.Bool              // the tables were seen
	// columns of a model were read since the last transaction
	toPrepare atomic.Bool

	mu      sync.RWMutex
	byType  map[reflect.Type]*model
	byName  map[string][]*model  // by the bare name of the table
	related map[string][]related // tables behind relations, likewise
	byID    map[string]*model
	invalid []error // what Register refused; RunInTx repeats it
}

// New makes a Box on db and adds a query hook to db, which refuses writes to registered tables
// outside [Box.RunInTx]. Call it before db is used by other goroutines. It does not talk to the
// database.
func New(db *bun.DB, config Config) (*Box, error) {
	config = config.withDefaults()
	own, err := ownTables(db, config)
	if err != nil {
		return nil, fmt.Errorf("outbox: %w", err)
	}
	b := &Box{
		db: db, own: own, migrator: tables.New(own), catalog: catalog.New(own),
		ledger: ledger.NewRevisions(own), writer: master.New(own),
		contextHeaders: config.Headers, trace: config.Trace, log: config.Logger,
		prepare: config.Prepare, finite: config.NaNAsNull,
		schema: config.Schema, prefix: config.TablePrefix,
		wake:    make(chan struct{}, 1),
		byType:  map[reflect.Type]*model{},
		byName:  map[string][]*model{},
		related: map[string][]related{},
		byID:    map[string]*model{},
	}
	if config.Observe {
		b.observer = newObserver(b)
	}
	own.SayWaits(func(holders string) {
		config.Logger.Warn("waiting for another transaction: end it if it does not end by itself",
			"holders", holders)
	})
	if b.writer.Announces() && config.NotifyEvery > 0 {
		b.away = newAnnouncer(b.writer.Announce, config.NotifyEvery, config.Logger)
	}
	// bun would rather have hooks added to a copy. The user goes on using db, and a write through
	// it that nobody sees is what P2 excludes, so the hook belongs on db itself.
	db.AddQueryHook(guard{b}) //nolint:staticcheck // WithQueryHook guards a copy that nobody uses
	return b, nil
}

// ownTables finds cqrsync's own tables in the service's database.
func ownTables(bunDB *bun.DB, config Config) (*db.Database, error) {
	return db.New(bunDB, config.names())
}

// Migrate creates or updates the outbox tables, and the triggers of models with [Triggers]. It is
// safe to call from several processes at once; a team that applies SQL itself prints it with "relay
// migrate --print".
func (b *Box) Migrate(ctx context.Context) error {
	if _, err := b.migrator.Migrate(ctx, db.Outbox); err != nil {
		return fmt.Errorf("outbox: migrate: %w", err)
	}
	if err := b.installTriggers(ctx); err != nil {
		return fmt.Errorf("outbox: migrate: %w", err)
	}
	return nil
}

// Close ends what the box does beside its callers: it tells relays of the last commits, for at most
// five seconds, and closes prepared statements. Call it when the service's transactions have ended
// and before db is closed, which it does not do. A later transaction still appends its messages;
// relays in other processes find them by polling. Closing twice is fine.
func (b *Box) Close() error {
	if b.away != nil {
		b.away.close()
	}
	if err := b.writer.ClosePrepared(); err != nil {
		return fmt.Errorf("outbox: close prepared statements: %w", err)
	}
	return nil
}

// Handover is for one relay in the same process (relay.Config.Handover): it is handed what
// [Box.RunInTx] has committed, and publishes it without reading it from the outbox first. What is
// large, or cannot be taken in time, it reads as ever.
func (b *Box) Handover() *handover.Handover {
	b.handover.CompareAndSwap(nil, handover.New())
	return b.handover.Load()
}

// Wake receives after a commit that appended messages: for a relay in the same process
// (relay.Config.Wake) that is not the one of [Box.Handover]. Signals coalesce, and a lost one costs
// latency only.
func (b *Box) Wake() <-chan struct{} { return b.wake }

// committed tells relays that there is something to publish.
func (b *Box) committed(o handover.Offer) {
	if h := b.handover.Load(); h != nil {
		h.Offer(o)
	}
	if b.away != nil {
		b.away.ring()
	}
	select {
	case b.wake <- struct{}{}:
	default: // one is pending already
	}
}
