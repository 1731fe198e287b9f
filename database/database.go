// Package database opens a bun.DB the way cqrsync's own binaries and examples do: by URL, with the
// driver settings that the library's promises rest on.
//
// The library takes any *bun.DB; this package is for those who have none yet. It is the only place
// that links database drivers: outbox, relay and replica do not.
package database

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/url"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/address"
)

// Open opens the database that rawURL names. It does not connect, except to MariaDB: the first
// statement does. Errors never contain the password.
//
//	postgres://user:password@host:5432/name?sslmode=require&search_path=orders
//	mysql://user:password@host:3306/name?tls=true
//	sqlite://orders.db      a file, relative to the working directory, made if it is not there
//	sqlite:///var/lib/x.db  a file, absolute
//	sqlite://x.db?mode=rw   a file that must be there (see OpenExisting); mode=ro: only to be read
//
// PostgreSQL runs on pgx, because pgx reports a COMMIT that the server turned into a ROLLBACK,
// which bun's own driver does not; in exec mode, because bun's statements are all different and
// preparing each would cost a round trip, and because a transaction-pooling proxy keeps no prepared
// statements. A relay on it reads what it publishes from pgx itself, which is a tenth faster than
// through database/sql; hooks of bun do not see that. It connects to servers that take writes only,
// unless the URL has another target_session_attrs; after an error that says that the server is
// read-only the connection is closed, so that after a failover nobody stays with the old primary.
//
// MariaDB runs on go-sql-driver/mysql, with times in UTC, and an UPDATE counts the rows it finds,
// not those it changes: that is how a write to a row that exists is told from one to a row that is
// gone. Tables that bun creates keep the microseconds of times. Each connection is strict about
// values (unless the URL has another sql_mode), and in UTC. After an error that says that the
// server is read-only the connection is closed, unless the URL says rejectReadOnly=false: what was
// in a transaction then fails with "driver: bad connection". Further options are those of the
// driver. The server is asked for its version once, here: without the answer bun would take it for
// an old MySQL.
//
// SQLite runs on modernc.org/sqlite (no C compiler needed) in WAL mode with full synchronisation.
// Transactions take the write lock when they begin, except those with sql.TxOptions.ReadOnly, and
// within the process in the order in which they came. Reads do not wait for them. A write through
// the database by a goroutine that has a transaction open waits for itself: it is refused with a
// [NestedWriteError]. A file that others keep locked is a [BusyError] after ten seconds, one that
// was deleted or replaced while it was open a [MovedError]. A # or % in the name is taken as it is;
// a ? begins the options.
func Open(rawURL string) (*bun.DB, error) {
	scheme, rest, found := strings.Cut(rawURL, "://")
	if !found || Redact(rawURL) == "(not a URL)" {
		return nil, fmt.Errorf("database URL %q: want postgres://…, mysql://… or sqlite://FILE",
			Redact(rawURL))
	}
	if err := address.RequireEscaped(rawURL); err != nil {
		return nil, fmt.Errorf("database URL %q: %w", Redact(rawURL), err)
	}
	switch scheme {
	case "postgres", "postgresql":
		return openPostgres(rawURL)
	case "mysql":
		return openMySQL(rawURL)
	case "sqlite":
		return openSQLite(rest, "")
	default:
		return nil, fmt.Errorf("database URL %q: unknown scheme %q, want postgres, mysql or sqlite",
			Redact(rawURL), scheme)
	}
}

// readBuffer is how much is read from PostgreSQL at a time. pgx reads 8 kB, and system calls were a
// fifth of what it costs to read rows.
const readBuffer = 64 << 10

func openPostgres(rawURL string) (*bun.DB, error) {
	config, err := pgx.ParseConfig(rawURL)
	if err != nil {
		// pgx redacts passwords in most of its messages, not in all: name the URL, not the cause.
		return nil, fmt.Errorf("database URL %q: not a PostgreSQL URL (user, host, port, options?)",
			Redact(rawURL))
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	leaveReadOnly(config, rawURL)
	config.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, readBuffer), w)
	}
	db := sql.OpenDB(pgxConnector{stdlib.GetConnector(*config)})
	limitConns(db)
	return bun.NewDB(db, pgxDialect{pgdialect.New()}), nil
}

// leaveReadOnly makes the pool leave a server that has become read-only, as a primary does that was
// demoted by a failover: without an error of the connection nobody else would. Unless the URL says
// what servers will do, it connects to one only that takes writes.
func leaveReadOnly(config *pgx.ConnConfig, rawURL string) {
	otherwise := config.OnPgError
	config.OnPgError = func(conn *pgconn.PgConn, err *pgconn.PgError) bool {
		const readOnly = "25006"
		// false closes the connection
		return err.Code != readOnly && (otherwise == nil || otherwise(conn, err))
	}
	if strings.Contains(rawURL, "target_session_attrs=") ||
		os.Getenv("PGTARGETSESSIONATTRS") != "" {
		return
	}
	config.ValidateConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
		err := pgconn.ValidateConnectTargetSessionAttrsReadWrite(ctx, conn)
		if err != nil {
			err = fmt.Errorf("%w: the server takes no writes, as a standby or a demoted primary; "+
				"name the primary, or all servers, or to read only add target_session_attrs=any "+
				"to the URL", err)
		}
		return err
	}
}

// pgxDialect lets the relay read rows without database/sql, which costs more than pgx and the
// network do: whoever finds this method on the dialect of a bun.DB knows the driver.
type pgxDialect struct{ *pgdialect.Dialect }

// ReadBinary runs a query on a connection of pgx's driver for database/sql, and calls read with the
// values of each row: in PostgreSQL's binary format, nil for null, valid until read returns. An
// error of read ends the reading and is returned.
func (pgxDialect) ReadBinary(
	ctx context.Context, driverConn any, query string, read func(values [][]byte) error,
) (err error) {
	conn, ok := driverConn.(interface{ Conn() *pgx.Conn })
	if !ok {
		return fmt.Errorf("read rows in binary: a connection of type %T, want pgx's", driverConn)
	}
	rows := conn.Conn().PgConn().ExecParams(ctx, query, nil, nil, nil,
		[]int16{pgx.BinaryFormatCode})
	defer func() {
		_, closeErr := rows.Close()
		err = errors.Join(err, closeErr)
	}()
	for rows.NextRow() {
		if err := read(rows.Values()); err != nil {
			return err
		}
	}
	return nil
}

func openMySQL(rawURL string) (*bun.DB, error) {
	u, err := url.Parse(rawURL)
	if err != nil || u.Host == "" || u.User == nil || strings.Trim(u.Path, "/") == "" {
		return nil, fmt.Errorf("database URL %q: not a MariaDB URL, want "+
			"mysql://user:password@host:3306/name", Redact(rawURL))
	}
	options := u.Query()
	// These hold whatever the URL says: capture and the tables rest on them.
	options.Set("parseTime", "true")
	options.Set("loc", "UTC")
	options.Set("clientFoundRows", "true")
	options.Set("multiStatements", "false")
	options.Set("time_zone", "'+00:00'") // or a timestamp would be read as another moment
	if !options.Has("sql_mode") {
		options.Set("sql_mode", "'"+mysqlModes+"'")
	}
	if !options.Has("rejectReadOnly") {
		// leaves a server that has become read-only: see leaveReadOnly
		options.Set("rejectReadOnly", "true")
	}
	config, err := mysql.ParseDSN("/?" + options.Encode())
	if err != nil { // which quotes what it does not understand
		return nil, fmt.Errorf("database URL %q: %s", Redact(rawURL), badOptions(options))
	}
	config.Net, config.Addr, config.DBName = "tcp", u.Host, strings.TrimPrefix(u.Path, "/")
	if u.Port() == "" {
		config.Addr = net.JoinHostPort(u.Hostname(), "3306")
	}
	config.User = u.User.Username()
	config.Passwd, _ = u.User.Password()
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, fmt.Errorf("database URL %q: %w", Redact(rawURL), err)
	}
	db := sql.OpenDB(connector)
	limitConns(db)
	ctx, cancel := context.WithTimeout(context.Background(), mysqlTimeout)
	defer cancel()
	if err := db.PingContext(ctx); err != nil {
		return nil, errors.Join(&AwayError{Redact(rawURL), err}, db.Close())
	}
	return bun.NewDB(db, newPreciseMySQL()), nil
}

// AwayError says that a server did not answer. A MariaDB server is asked for its version when its
// database is opened; other databases are asked by the first statement.
type AwayError struct {
	URL string // without the password
	Err error
}

func (e *AwayError) Error() string { return fmt.Sprintf("connect to %s: %s", e.URL, e.Err) }

// Unwrap returns what the driver said.
func (e *AwayError) Unwrap() error { return e.Err }

// badOptions names the options that the driver does not take.
func badOptions(options url.Values) string {
	var bad []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		if _, err := mysql.ParseDSN("/?" + url.Values{name: options[name]}.Encode()); err != nil {
			bad = append(bad, name)
		}
	}
	return "the driver does not take the value of " + strings.Join(bad, ", ") +
		" (see https://github.com/go-sql-driver/mysql#parameters)"
}

// preciseMySQL makes time columns with microseconds, which bun's CREATE TABLE leaves out there: a
// revision's time must not be rounded to the second.
type preciseMySQL struct {
	*mysqldialect.Dialect
	tables *schema.Tables
}

func newPreciseMySQL() *preciseMySQL {
	d := &preciseMySQL{Dialect: mysqldialect.New(mysqldialect.WithTimeLocation("UTC"))}
	// asks d about each table, where the embedded dialect's would ask that one
	d.tables = schema.NewTables(d)
	return d
}

func (d *preciseMySQL) Tables() *schema.Tables { return d.tables }

func (d *preciseMySQL) OnTable(table *schema.Table) {
	d.Dialect.OnTable(table)
	for _, field := range table.FieldMap {
		if field.DiscoveredSQLType == "DATETIME" {
			field.DiscoveredSQLType = "DATETIME(6)"
		}
	}
}

// mysqlModes have MariaDB refuse what it would cut. A server without them, as some installations
// are, would change what a replica writes. NO_AUTO_VALUE_ON_ZERO is not among them: bun inserts 0
// to have a key drawn.
const mysqlModes = "STRICT_ALL_TABLES,NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO," +
	"NO_ENGINE_SUBSTITUTION"

// mysqlTimeout is how long Open waits for a MariaDB server.
const mysqlTimeout = 10 * time.Second

// connLifetime is for how long a connection may stay with a server after its name means another
// one. To connect costs some milliseconds.
const connLifetime = 5 * time.Minute

func limitConns(db *sql.DB) {
	conns := max(4*runtime.GOMAXPROCS(0), 16)
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	db.SetConnMaxLifetime(connLifetime)
}

// Redact returns the URL without its passwords, for logs and errors, and of one that cannot be read
// its scheme only.
func Redact(rawURL string) string { return address.Redact(rawURL) }
