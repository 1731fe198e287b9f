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
	op      text NOT NULL
)`}
}

func (sqliteRows) text(column string) string { return "CAST(" + column + " AS TEXT)" }

// json escapes two characters that SQLite leaves and Go does not.
func (s sqliteRows) json(c Column, column string) string {
	if c.Kind == Integer {
		return s.text(column)
	}
	return `replace(replace(json_quote(` + s.text(column) + `), char(8232), '\u2028'), char(8233), '\u2029')`
}

func (sqliteRows) concat(parts ...string) string { return strings.Join(parts, " || ") }

func (sqliteRows) isUUID(c Column, column string) string {
	none := column + " IS NULL OR "
	digits := none + "typeof(" + column + ") = 'text' AND length(replace(" + column + ", '-', '')) = 32 AND " +
		column + " NOT GLOB '*[^0-9a-f-]*'"
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

// session: there is one writer at a time, and what others have committed is of no session.
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
		"CREATE TRIGGER " + quote(name) + " " + when + " " + event + " ON " + table + " FOR EACH ROW " + body,
	}
}

func (sqliteRows) texts() string {
	return "SELECT tbl_name, name, sql FROM sqlite_master WHERE type = 'trigger'"
}

func (sqliteRows) exists(ctx context.Context, db *bun.DB, table string) error {
	var found bool
	err := db.DB.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM sqlite_master WHERE type = 'table' AND lower(name) = lower(?))", table).Scan(&found)
	if err == nil && !found {
		err = fmt.Errorf("table %s does not exist (triggers stand on tables, not on views)", table)
	}
	return err
}

func (sqliteRows) refuses(context.Context, *bun.DB, string, string) error { return nil }

// others see the rows that a REPLACE deletes because of another unique index: SQLite tells no
// trigger of those. Before the write they are noted; noting one that stays does no harm.
func (s sqliteRows) others(ctx context.Context, db *bun.DB, e *rowsEngine, m Model, t target) ([]wanted, error) {
	if t.touch != nil {
		return nil, nil
	}
	rows, err := db.DB.QueryContext(ctx, `SELECT l.name, i.name FROM pragma_index_list(?) AS l, pragma_index_info(l.name) AS i
		WHERE l."unique" AND l.origin <> 'pk' ORDER BY l.seq, i.seqno`, m.Table)
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for unique indexes of %s: %w", m.Table, err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var order []string
	columns := map[string][]string{}
	for rows.Next() {
		var index string
		var column *string // NULL of an expression
		if err := rows.Scan(&index, &column); err != nil {
			return nil, err
		}
		if columns[index] == nil {
			order = append(order, index)
		}
		if column != nil {
			columns[index] = append(columns[index], "x."+quote(*column)+" = NEW."+quote(*column))
		}
	}
	if err := rows.Err(); err != nil || order == nil {
		return nil, err
	}
	var met []string
	for _, index := range order {
		if len(columns[index]) == 0 {
			return nil, fmt.Errorf("table %s has the unique index %s on an expression: a REPLACE may delete rows by it that no "+
				"trigger sees; take it away, or leave the table to the capture of a Go service", m.Table, index)
		}
		met = append(met, "("+strings.Join(columns[index], " AND ")+")")
	}
	body := "INSERT INTO " + e.dirty() + " (session, model, key, op) SELECT " + s.session() + ", " + literal(m.ID) + ", " +
		e.key(m.Key, "x") + ", 't' FROM " + t.name + " AS x WHERE " + strings.Join(met, " OR ") + "; "
	var all []wanted
	for letter, event := range map[string]string{"p": "INSERT", "q": "UPDATE"} {
		all = append(all, wanted{table: t.name, name: e.prefix + m.trigger(t, letter, e.prefix), when: "BEFORE", event: event, create: body})
	}
	if all[0].event > all[1].event { // maps have no order
		all[0], all[1] = all[1], all[0]
	}
	return all, nil
}
