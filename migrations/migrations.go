// Package migrations holds the tables of cqrsync as SQL, one folder per dialect and side, and
// nothing else.
//
// The files are text/template templates over one method, Table(name), which returns the quoted name
// with the configured schema and prefix. bun/migrate runs them (see internal/tables), "relay
// migrate --print" renders them, and a team with its own migration tool copies the printed SQL.
//
// Layout: <dialect>/<side>/<number>_<name>.tx.up.sql, where dialect is mysql, postgres or sqlite
// and side is outbox (the master's database) or replica. A file that has been released is never
// edited: add the next number. A file for mysql must also stand being run again from the start
// after any of its statements, and by two processes at once.
//
// The package imports only the standard library.
package migrations

import "embed"

// FS holds the migration files.
//
//go:embed mysql postgres sqlite
var FS embed.FS
