// Package database opens a bun.DB the way cqrsync's own binaries and examples do: by URL, with the driver settings
// that the library's promises rest on.
//
// The library takes any *bun.DB; this package is for those who have none yet. It is the only place that links
// database drivers: outbox, relay and replica do not.
package database

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	_ "modernc.org/sqlite" // registers the driver "sqlite"
)

// Open opens the database that rawURL names. It does not connect: the first statement does. Errors never contain the
// password.
//
//	postgres://user:password@host:5432/name?sslmode=require&search_path=orders
//	sqlite://orders.db      a file, relative to the working directory
//	sqlite:///var/lib/x.db  a file, absolute
//
// PostgreSQL runs on pgx, because pgx reports a COMMIT that the server turned into a ROLLBACK, which bun's own driver
// does not; in exec mode, because bun's statements are all different and preparing each would cost a round trip, and
// because a transaction-pooling proxy keeps no prepared statements.
//
// SQLite runs on modernc.org/sqlite (no C compiler needed) in WAL mode with full synchronisation, one connection, and
// transactions that take the write lock when they begin.
func Open(rawURL string) (*bun.DB, error) {
	scheme, rest, found := strings.Cut(rawURL, "://")
	if !found {
		return nil, fmt.Errorf("database URL %q: want postgres://… or sqlite://FILE", Redact(rawURL))
	}
	switch scheme {
	case "postgres", "postgresql":
		return openPostgres(rawURL)
	case "sqlite":
		return openSQLite(rest)
	default:
		return nil, fmt.Errorf("database URL %q: unknown scheme %q, want postgres or sqlite", Redact(rawURL), scheme)
	}
}

func openPostgres(rawURL string) (*bun.DB, error) {
	config, err := pgx.ParseConfig(rawURL)
	if err != nil {
		// pgx redacts passwords in most of its messages, not in all: name the URL, not the cause.
		return nil, fmt.Errorf("database URL %q: not a PostgreSQL URL (user, host, port, options?)", Redact(rawURL))
	}
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	db := sql.OpenDB(stdlib.GetConnector(*config))
	conns := 4 * runtime.GOMAXPROCS(0)
	db.SetMaxOpenConns(max(conns, 16))
	db.SetMaxIdleConns(max(conns, 16))
	return bun.NewDB(db, pgdialect.New()), nil
}

func openSQLite(path string) (*bun.DB, error) {
	path, _, _ = strings.Cut(path, "?")
	if path == "" {
		return nil, errors.New("database URL \"sqlite://\": the file name is missing, want sqlite://FILE")
	}
	// SQLite decodes %XX in a file: URI; a bare # would end the name.
	name := strings.NewReplacer("%", "%25", "#", "%23").Replace(filepath.ToSlash(path))
	dsn := "file:" + name + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)&_txlock=immediate"
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open SQLite file %s: %w", path, err)
	}
	// One connection: SQLite has one writer, and waiting for a connection is fairer than waiting for its lock.
	db.SetMaxOpenConns(1)
	return bun.NewDB(db, sqlitedialect.New()), nil
}

// Redact returns the URL without its passwords, for logs and errors. It works on the text, because a password with
// an unescaped delimiter is just what makes a URL unreadable: all between the user name and the last @ goes.
func Redact(rawURL string) string {
	scheme, rest, found := strings.Cut(rawURL, "://")
	if !found {
		return "(not a URL)"
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		user, _, hasPassword := strings.Cut(rest[:at], ":")
		if hasPassword {
			user += ":xxxxx"
		}
		rest = user + rest[at:]
	}
	base, query, _ := strings.Cut(rest, "?")
	if strings.Contains(query, "password=") {
		base += "?xxxxx"
	} else if query != "" {
		base += "?" + query
	}
	return scheme + "://" + base
}
