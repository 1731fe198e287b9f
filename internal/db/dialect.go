package db

import (
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Dialect is what every room needs to say differently per database. Postgres, MariaDB and SQLite
// are embedded in the dialects of the rooms.
//
// Times cross the seam as microseconds since 1970 (UTC), the resolution of the wire format.
type Dialect interface {
	// Name is the folder in migrations.
	Name() string
	Quote() string
	// HasSchemas says that a table may be in a schema of another name.
	HasSchemas() bool
	// Now is an expression for the database's clock, as a value of a time column.
	Now() string
	// Steady is Now, and the same throughout a statement.
	Steady() string
	// Micros reads the time column col as microseconds; null stays null.
	Micros(col string) string
	// Time is the value of a time column.
	Time(t time.Time) any
	// After is an expression for the time expression t moved on by d.
	After(t string, d time.Duration) string
	// Greatest is an expression for the larger of two values.
	Greatest(a, b string) string
	// LockRows ends a SELECT that reads rows in order to change them, or is empty where a write
	// transaction excludes every other.
	LockRows() string
	// LanesOptions are those of the transactions in which rows are locked that others lock, too.
	LanesOptions() *sql.TxOptions
	// OnConflict begins the part of an INSERT that updates the rows it meets by their primary key:
	// assignments follow. Some databases make them one after the other, so none may read a column
	// that one before it wrote.
	OnConflict(key string) string
	// Proposed is, after OnConflict, the value that the INSERT would have given the column.
	Proposed(col string) string
	// MaxStatement is how many bytes of SQL one statement may have.
	MaxStatement() int
}

// DialectNamed returns the dialect of a name.
func DialectNamed(name string) (Dialect, error) {
	for _, d := range []Dialect{Postgres{}, MariaDB{}, SQLite{}} {
		if d.Name() == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("dialect %q: want postgres, mysql or sqlite", name)
}

// Postgres is the dialect of PostgreSQL.
type Postgres struct{}

func (Postgres) Name() string                 { return "postgres" }
func (Postgres) Quote() string                { return `"` }
func (Postgres) HasSchemas() bool             { return true }
func (Postgres) Now() string                  { return "clock_timestamp()" }
func (Postgres) Steady() string               { return "statement_timestamp()" }
func (Postgres) Time(t time.Time) any         { return t.UTC() }
func (Postgres) Greatest(a, b string) string  { return "GREATEST(" + a + ", " + b + ")" }
func (Postgres) LockRows() string             { return "FOR UPDATE SKIP LOCKED" }
func (Postgres) LanesOptions() *sql.TxOptions { return nil }
func (Postgres) OnConflict(key string) string { return "ON CONFLICT (" + key + ") DO UPDATE SET" }
func (Postgres) Proposed(col string) string   { return "excluded." + col }
func (Postgres) MaxStatement() int            { return 16 << 20 }

// Micros uses date_part, a float, which has the microseconds of the next eighty years, and a fifth
// of extract's cost, whose numeric has those of all.
func (Postgres) Micros(col string) string {
	return "(date_part('epoch', " + col + ") * 1000000)::bigint"
}

func (Postgres) After(t string, d time.Duration) string {
	return fmt.Sprintf("%s + interval '%d microseconds'", t, d.Microseconds())
}

// MariaDB is the dialect of MariaDB from 10.6: cqrsync needs INSERT … RETURNING, which MySQL has
// not, and SKIP LOCKED. Its times are integers: microseconds since 1970 in UTC.
type MariaDB struct{}

func (MariaDB) Name() string     { return "mysql" }
func (MariaDB) Quote() string    { return "`" }
func (MariaDB) HasSchemas() bool { return true }
func (MariaDB) Now() string {
	return "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))"
}
func (d MariaDB) Steady() string            { return d.Now() } // UTC_TIMESTAMP is, unlike SYSDATE
func (MariaDB) Micros(col string) string    { return col }
func (MariaDB) Time(t time.Time) any        { return t.UnixMicro() }
func (MariaDB) Greatest(a, b string) string { return "GREATEST(" + a + ", " + b + ")" }
func (MariaDB) LockRows() string            { return "FOR UPDATE SKIP LOCKED" }
func (MariaDB) OnConflict(string) string    { return "ON DUPLICATE KEY UPDATE" }
func (MariaDB) Proposed(col string) string  { return "VALUES(" + col + ")" }

// LanesOptions are those in which a statement locks no more than it changes: under REPEATABLE READ
// InnoDB locks every row that a statement looks at, so that relays which renew their own lanes
// would lock those of all others.
func (MariaDB) LanesOptions() *sql.TxOptions {
	return &sql.TxOptions{Isolation: sql.LevelReadCommitted}
}

// MaxStatement stays under max_allowed_packet, whose default is 16 MiB, also when every second byte
// is escaped.
func (MariaDB) MaxStatement() int { return 4 << 20 }

func (MariaDB) After(t string, d time.Duration) string {
	return fmt.Sprintf("(%s + %d)", t, d.Microseconds())
}

// IsTable is a condition of the catalog for a quoted, perhaps qualified table.
func (MariaDB) IsTable(table string) string {
	schema, name := "database()", strings.Trim(table, "`")
	if before, after, found := strings.Cut(name, "`.`"); found {
		schema, name = "'"+before+"'", after
	}
	return "table_schema = " + schema + " AND table_name = '" + name + "'"
}

// SQLite is the dialect of SQLite. Its times are integers: microseconds since 1970 in UTC.
type SQLite struct{}

func (SQLite) Name() string     { return "sqlite" }
func (SQLite) Quote() string    { return `"` }
func (SQLite) HasSchemas() bool { return false }
func (SQLite) Now() string {
	return "CAST(unixepoch('now', 'subsec') * 1000000 " +
		"AS integer)"
}
func (SQLite) Micros(col string) string     { return col }
func (SQLite) Time(t time.Time) any         { return t.UnixMicro() }
func (SQLite) Greatest(a, b string) string  { return "max(" + a + ", " + b + ")" }
func (SQLite) LockRows() string             { return "" }
func (SQLite) LanesOptions() *sql.TxOptions { return nil }
func (SQLite) OnConflict(key string) string { return "ON CONFLICT (" + key + ") DO UPDATE SET" }
func (SQLite) Proposed(col string) string   { return "excluded." + col }

// Steady is this host's clock, as Now is; SQLite would ask that again for later rows.
func (SQLite) Steady() string { return strconv.FormatInt(time.Now().UnixMicro(), 10) }

// MaxStatement stays under SQLITE_MAX_SQL_LENGTH, whose default is 1,000,000 bytes.
func (SQLite) MaxStatement() int { return 512 << 10 }

func (SQLite) After(t string, d time.Duration) string {
	return fmt.Sprintf("(%s + %d)", t, d.Microseconds())
}
