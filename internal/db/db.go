// Package db is what every room with tables of cqrsync's own stands on: the database, the names of
// the tables, the few expressions that all of them need per dialect, bounded transactions, and the
// kinds of errors.
//
// It knows no table. A room (internal/ledger, internal/queue, …) declares the dialect that its own
// SQL needs, on top of Dialect, next to that SQL, and picks one of three with Choose.
package db

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/dialect/feature"
)

// Database is a bun.DB in which cqrsync's tables are. It is safe for concurrent use.
type Database struct {
	bun      *bun.DB
	dialect  Dialect
	sessions sessions
	names    Names
	bounds   Bounds
	waits    waits
	packet   atomic.Int64 // how many bytes a statement may have; 0 is not known
}

// New checks the names and the dialect; it does not talk to the database.
func New(bunDB *bun.DB, names Names) (*Database, error) {
	if bunDB == nil {
		return nil, errors.New("db is nil: pass the *bun.DB of the service")
	}
	d := &Database{bun: bunDB, names: names, bounds: Within(DefaultLease)}
	var err error
	switch name := bunDB.Dialect().Name(); name {
	case dialect.PG:
		d.dialect, d.sessions = Postgres{}, postgresSessions{}
	case dialect.SQLite:
		d.dialect, d.sessions = SQLite{}, sqliteSessions{}
	case dialect.MySQL:
		d.dialect, d.sessions = MariaDB{}, mariadbSessions{}
		if !bunDB.HasFeature(feature.InsertReturning) {
			err = errors.New("dialect mysql: cqrsync needs MariaDB 10.6 or newer, which was not " +
				"there when the bun.DB was made: MySQL has no INSERT … RETURNING")
		}
	default:
		return nil, errors.Join(names.Validate(),
			fmt.Errorf("dialect %s: cqrsync speaks PostgreSQL, MariaDB and SQLite",
				strings.ToLower(name.String())))
	}
	if err := errors.Join(err, names.CheckFor(d.dialect)); err != nil {
		return nil, err
	}
	return d, nil
}

// Choose returns what belongs to the dialect of a database: it is how a room picks its own SQL.
func Choose[T any](d *Database, postgres, mariadb, sqlite T) T {
	return ChooseFor(d.dialect, postgres, mariadb, sqlite)
}

// ChooseFor is Choose where there is no database.
func ChooseFor[T any](d Dialect, postgres, mariadb, sqlite T) T {
	switch d.(type) {
	case Postgres:
		return postgres
	case MariaDB:
		return mariadb
	default:
		return sqlite
	}
}

// DB returns the database as the service made it.
func (d *Database) DB() *bun.DB { return d.bun }

// Dialect returns the expressions of the database.
func (d *Database) Dialect() Dialect { return d.dialect }

// Names returns where the tables are.
func (d *Database) Names() Names { return d.names }

// Table returns a table for use as an argument of a bun query: ? in the text,
// d.Table("outbox_messages") beside it.
func (d *Database) Table(name string) bun.Safe {
	return bun.Safe(d.names.Table(d.dialect.Quote(), name))
}

// SQL returns a statement in the dialect's quotes. It is written with those of the standard around
// the columns that are reserved words in one of the databases: "key" and "signal".
func (d *Database) SQL(statement string) string {
	return strings.ReplaceAll(statement, `"`, d.dialect.Quote())
}

// Upsert ends an INSERT that gives the columns of the rows it meets the new values.
func (d *Database) Upsert(key string, columns ...string) string {
	assignments := make([]string, len(columns))
	for i, c := range columns {
		assignments[i] = c + " = " + d.dialect.Proposed(c)
	}
	return " " + d.dialect.OnConflict(key) + " " + strings.Join(assignments, ", ")
}

// Now reads the time by the database's clock.
func (d *Database) Now(ctx context.Context) (time.Time, error) {
	var micros int64
	err := d.bun.QueryRowContext(ctx, "SELECT "+d.dialect.Micros(d.dialect.Now())).Scan(&micros)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the database's clock: %w", err)
	}
	return time.UnixMicro(micros).UTC(), nil
}

// TimeOrNull returns a value of a time column that is null where t is zero.
func (d *Database) TimeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return d.dialect.Time(t)
}

// ExecAll runs statements one after the other.
func ExecAll(ctx context.Context, tx bun.IDB, statements []string) error {
	for _, statement := range statements {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
