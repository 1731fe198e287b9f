package capture

import (
	"context"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
)

type sqliteRows struct{}

func (sqliteRows) quote(name string) string { return quote(name) }

func (sqliteRows) table(name string) []string {
	return []string{`CREATE TABLE IF NOT EXISTS ` + name + ` (
	id      integer PRIMARY KEY AUTOINCREMENT,
	session integer,
	model   text NOT NULL,
	key     text NOT NULL,
	op      text NOT NULL,
	noted_at integer NOT NULL DEFAULT (strftime('%s', 'now'))
)`}
}

func (sqliteRows) text(column string) string { return "CAST(" + column + " AS TEXT)" }

// json escapes two characters that SQLite leaves and Go does not.
func (s sqliteRows) json(c Column, column string) string {
	if c.Kind == Integer {
		return s.text(column)
	}
	return `replace(replace(json_quote(` + s.text(column) + `), ` +
		`char(8232), '\u2028'), char(8233), '\u2029')`
}

func (sqliteRows) concat(parts ...string) string { return strings.Join(parts, " || ") }

func (sqliteRows) isUUID(c Column, column string) string {
	none := column + " IS NULL OR "
	digits := none + "typeof(" + column + ") = 'text' AND length(replace(" + column +
		", '-', '')) = 32 AND " + column + " NOT GLOB '*[^0-9a-f-]*'"
	switch c.Kind {
	case TextUUID:
		return digits + " AND " + column + " GLOB '????????-????-????-????-????????????'"
	case HexUUID:
		return digits + " AND length(" + column + ") = 32"
	case BinaryUUID:
		return none + "typeof(" + column + ") = 'blob' AND length(" + column + ") = 16"
	}
	return ""
}

func (sqliteRows) refuse(unless, message string) string {
	return "SELECT RAISE(ABORT, " + literal(message) + ") WHERE NOT (" + unless + "); "
}

// session is none: there is one writer at a time, and what others have committed is of no session.
func (sqliteRows) session() string { return "NULL" }

func (sqliteRows) same(a, b string) string { return a + " IS " + b }

func (sqliteRows) insert(into string, values, conditions []string) string {
	text := into + " SELECT " + strings.Join(values, ", ")
	if conditions != nil {
		text += " WHERE " + strings.Join(conditions, " AND ")
	}
	return text + "; "
}

func (sqliteRows) create(name, when, event, table, body string) []string {
	return []string{
		"DROP TRIGGER IF EXISTS " + quote(name),
		"CREATE TRIGGER " + quote(name) + " " + when + " " + event + " ON " + table +
			" FOR EACH ROW " + body,
	}
}

func (sqliteRows) texts() string {
	return "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger'"
}

func (sqliteRows) exists(ctx context.Context, db *bun.DB, table string) error {
	var found bool
	err := db.DB.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM sqlite_master
		WHERE type = 'table' AND lower(name) = lower(?))`, table).Scan(&found)
	if err == nil && !found {
		err = fmt.Errorf("table %s does not exist (triggers stand on tables, not on views)", table)
	}
	return err
}

func (sqliteRows) refuses(context.Context, *bun.DB, string, string) error { return nil }
