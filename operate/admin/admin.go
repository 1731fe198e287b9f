// Package admin shows and changes cqrsync's own tables: for whoever is on call, and for programs
// that do the same.
//
// A [Tables] is what one database has of them. Its [Master] is the outbox: how much waits, who
// publishes, what was given up. Its [Replica] is what a replica keeps beside its rows: what waits
// there, where messages came from, what could not be applied. [BrokerDeadLetters] are dead
// letters in a queue of the broker.
//
// No function here knows a model's Go type: what needs one is in package operate, and
// [github.com/cqrsync/cqrsync/replica.Replica.RetryLetters] applies a replica's dead letters again.
//
// Neighbours: operate/command makes command lines of it, internal/queue and internal/applied run
// the statements.
package admin

import (
	"context"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// Config says where the tables are. The zero value means the connection's search path and no
// prefix.
type Config struct {
	// Schema qualifies every table. Default: the connection's search path. SQLite has none.
	Schema string
	// TablePrefix stands before every table's name. Default: nothing.
	TablePrefix string
}

func (c Config) names() db.Names { return db.Names{Schema: c.Schema, Prefix: c.TablePrefix} }

// Validate checks what can be checked without a database, and returns all that is wrong.
func (c Config) Validate() error { return c.names().Validate() }

// Side is one of the two sets of tables. A service that is a master and a replica has both in one
// database.
type Side string

const (
	// OutboxSide are the master's tables.
	OutboxSide = Side(db.Outbox)
	// ReplicaSide are the tables that a replica has beside its rows.
	ReplicaSide = Side(db.Replica)
)

// own finds the tables in a database.
func (c Config) own(bunDB *bun.DB) (*db.Database, error) { return db.New(bunDB, c.names()) }

// ErrNotMigrated says that tables are missing or older than this version: call Migrate.
var ErrNotMigrated = tables.ErrNotMigrated

// Tables are cqrsync's own tables in one database. They are safe for concurrent use.
type Tables struct{ migrator *tables.Migrator }

// Open checks the configuration against the kind of database. It does not talk to the database, and
// whoever opened that closes it.
func Open(db *bun.DB, c Config) (*Tables, error) {
	own, err := c.own(db)
	if err != nil {
		return nil, err
	}
	return &Tables{tables.New(own)}, nil
}

// Migrate makes or upgrades the tables of one side and returns which migrations it applied. Several
// may run at the same time, beside services that write.
func (t *Tables) Migrate(ctx context.Context, side Side) (applied []string, err error) {
	return t.migrator.Migrate(ctx, db.Side(side))
}

// Master returns the outbox, or an error that says how to make its tables.
func (t *Tables) Master(ctx context.Context) (*Master, error) {
	if err := t.migrator.RequireMigrated(ctx, db.Outbox); err != nil {
		return nil, err
	}
	own := t.migrator.Database
	return &Master{queue.New(own), ledger.NewRevisions(own), registry.New(own)}, nil
}

// Ping asks the database for a sign of life.
func (t *Tables) Ping(ctx context.Context) error { return t.migrator.DB().PingContext(ctx) }

// Replica returns what the replica keeps, or an error that says how to make its tables.
func (t *Tables) Replica(ctx context.Context) (*Replica, error) {
	if err := t.migrator.RequireMigrated(ctx, db.Replica); err != nil {
		return nil, err
	}
	return &Replica{applied.New(t.migrator.Database)}, nil
}

// MigrationSQL returns the SQL of Migrate, as input for psql, mariadb or sqlite3. It notes that it
// was applied, so that a later Migrate goes on from there. The dialect is postgres, mysql or
// sqlite.
func MigrationSQL(dialect string, side Side, c Config) (string, error) {
	return tables.Print(dialect, db.Side(side), c.names())
}
