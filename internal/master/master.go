// Package master writes what a master's transactions write into cqrsync's tables: messages into the
// outbox, in the transaction that draws their revisions (internal/ledger), and the call that wakes
// relays afterwards.
package master

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// Writer appends to the outbox. It is safe for concurrent use.
type Writer struct {
	*db.Database
	dialect   dialect
	revisions *ledger.Revisions
	lanes     *outgoing.Lanes

	prepared sync.Map // by the text of PlainRows: the *sql.Stmt that Prepare made
}

// New returns a writer that has prepared nothing yet.
func New(d *db.Database) *Writer {
	return &Writer{
		Database: d, dialect: db.Choose[dialect](d, postgres{}, mariadb{}, sqlite{}),
		revisions: ledger.NewRevisions(d), lanes: outgoing.NewLanes(d),
	}
}

// RunDeferred makes the deferred triggers and constraints of a transaction run now, where the
// database has such.
func (w *Writer) RunDeferred(ctx context.Context, tx bun.IDB) error {
	statement := w.dialect.runDeferred()
	if statement == "" {
		return nil
	}
	if _, err := tx.ExecContext(ctx, statement); err != nil {
		return fmt.Errorf("run deferred triggers and constraints before the commit: %w", err)
	}
	return nil
}

// dialect is what a database can do for those who write messages.
type dialect interface {
	db.Dialect
	// announces says that a session can wake those that listen.
	announces() bool
	// recordsInFunction says that the migrations make the functions outbox_record and
	// outbox_record_many.
	recordsInFunction() bool
	// created is the value of created_at of a message, nil for that of the database's clock. It
	// must be as fine as that clock is elsewhere, because messages are told apart by it.
	created() any
	// runDeferred is the statement of RunDeferred, or empty.
	runDeferred() string
}

type (
	postgres struct{ db.Postgres }
	mariadb  struct{ db.MariaDB }
	sqlite   struct{ db.SQLite }
)

func (postgres) announces() bool         { return true }
func (postgres) recordsInFunction() bool { return true }
func (postgres) created() any            { return nil }
func (postgres) runDeferred() string     { return "SET CONSTRAINTS ALL IMMEDIATE" }

func (mariadb) announces() bool         { return false }
func (mariadb) recordsInFunction() bool { return false }
func (mariadb) created() any            { return nil }
func (mariadb) runDeferred() string     { return "" }

func (sqlite) announces() bool         { return false }
func (sqlite) recordsInFunction() bool { return false }
func (sqlite) runDeferred() string     { return "" }

// created comes from this process: SQLite's own clock counts milliseconds.
func (sqlite) created() any { return time.Now().UnixMicro() }
