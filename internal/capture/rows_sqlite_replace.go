package capture

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

// others see the rows that a REPLACE deletes because of a unique index: SQLite tells no trigger of
// those. Before the write they are noted; noting one that stays does no harm. A row of the model
// that goes because of its own key is noted by the write; one that belongs to an entity is not,
// because the row in its place may belong to another.
func (s sqliteRows) others(
	ctx context.Context, db *bun.DB, e *rowsEngine, m Model, t target,
) ([]wanted, error) {
	table, key := m.Table, m.Key
	if t.touch != nil {
		table, key = t.touch.Table, t.touch.Columns
	}
	met, err := s.uniqueMatches(ctx, db, table, t.touch != nil)
	if err != nil || met == nil {
		return nil, err
	}
	condition := "(" + strings.Join(met, " OR ") + ")"
	for _, c := range key {
		condition += " AND x." + quote(c.Name) + " IS NOT NULL"
	}
	body := "INSERT INTO " + e.dirty() + " (session, model, key, op) " +
		"SELECT " + s.session() + ", " + literal(m.ID) + ", " + e.key(key, "x") + ", 't' " +
		"FROM " + t.name + " AS x WHERE " + condition + "; "
	var all []wanted
	for _, event := range []event{{letter: "p", verb: "INSERT"}, {letter: "q", verb: "UPDATE"}} {
		all = append(all, wanted{
			table: t.name, name: e.prefix + m.trigger(t, event.letter, e.prefix), when: "BEFORE",
			event: event.verb, create: body,
		})
	}
	return all, nil
}

// uniqueMatches are conditions: the row x has the values of NEW in a unique index.
func (sqliteRows) uniqueMatches(
	ctx context.Context, db *bun.DB, table string, withKey bool,
) ([]string, error) {
	rows, err := db.DB.QueryContext(ctx, `
		SELECT l.name, i.name FROM pragma_index_list(?1) AS l, pragma_index_info(l.name) AS i
		WHERE l."unique" AND l.origin <> 'pk'
		UNION ALL SELECT 'the primary key', name FROM pragma_table_info(?1) WHERE pk > 0 AND ?2
		ORDER BY 1, 2`, table, withKey)
	if err != nil {
		return nil, fmt.Errorf("ask the catalog for unique indexes of %s: %w", table, err)
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
		if !slices.Contains(order, index) {
			order = append(order, index)
		}
		if column != nil {
			columns[index] = append(columns[index], "x."+quote(*column)+" = NEW."+quote(*column))
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	var met []string
	for _, index := range order {
		if len(columns[index]) == 0 {
			return nil, fmt.Errorf("table %s has the unique index %s on an expression: a REPLACE "+
				"may delete rows by it that no trigger sees; take it away, or leave the table to "+
				"the capture of a Go service", table, index)
		}
		met = append(met, "("+strings.Join(columns[index], " AND ")+")")
	}
	return met, nil
}
