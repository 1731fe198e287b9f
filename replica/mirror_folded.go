package replica

import (
	"context"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// Some columns take two spellings for one value: by a collation (abc and ABC, e and é, spaces at
// the end), or by their type. Where a key has such a column, what is found by it is compared once
// more, byte by byte: a message about one key must never write or delete the row of another.

// foldedKeyError is returned for a row whose key the table takes for that of another row.
type foldedKeyError struct {
	table, column, by string
	alter             string
}

func (e *foldedKeyError) Error() string {
	return fmt.Sprintf("table %s takes the key for that of another row, because of the %s of "+
		"column %q: run %s",
		e.table, e.by, e.column, e.alter)
}

// exactly is an SQL expression for a text that only its own spelling equals.
func exactly(name dialect.Name, expression string) string {
	switch name {
	case dialect.PG:
		return "(" + expression + `)::text COLLATE "C"`
	case dialect.MySQL:
		return "BINARY CONVERT(" + expression + " USING utf8mb4)"
	default:
		return "(" + expression + ") COLLATE BINARY"
	}
}

// anyOf is the condition that fields hold the primary key of one of rows, as it is spelled there.
func anyOf(tx bun.IDB, fields []*schema.Field, rows []*row, folded map[string]string) string {
	plain := func(expression string, _ int) string { return expression }
	condition := oneOf(tx, fields, rows, plain)
	name, isFolded := tx.Dialect().Name(), false
	exact := func(expression string, i int) string {
		if folded[fields[i].Name] == "" {
			return expression
		}
		isFolded = true
		return exactly(name, expression)
	}
	if also := oneOf(tx, fields, rows, exact); isFolded {
		return condition + " AND " + also // the first one is for the index
	}
	return condition
}

func oneOf(tx bun.IDB, fields []*schema.Field, rows []*row,
	write func(expression string, field int) string) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = write(string(f.SQLName), i)
	}
	keys := make([]string, len(rows))
	for n, r := range rows {
		parts := make([]string, len(fields))
		for i := range fields {
			parts[i] = write(r.values[i], i)
		}
		keys[n] = strings.Join(parts, ", ")
		if len(fields) > 1 {
			keys[n] = "(" + keys[n] + ")"
		}
	}
	left, list := strings.Join(names, ", "), strings.Join(keys, ", ")
	if len(fields) > 1 {
		left = "(" + left + ")"
		if tx.Dialect().Name() == dialect.SQLite {
			list = "VALUES " + list
		}
	}
	return left + " IN (" + list + ")"
}

// keptApart fails where rows that were just written are not all there under their own spelling:
// then one was written over another one.
func (m *mirror) keptApart(ctx context.Context, tx bun.Tx, rows []*row, shape *mirrorShape) error {
	column := ""
	for _, f := range m.table.PKs {
		if shape.folded[f.Name] != "" {
			column = f.Name
		}
	}
	if column == "" || len(rows) == 0 {
		return nil
	}
	var n int
	err := tx.NewRaw("SELECT count(*) FROM ? WHERE ?", m.table.SQLName,
		bun.Safe(anyOf(tx, m.table.PKs, rows, shape.folded))).Scan(ctx, &n)
	if err != nil || n == len(rows) {
		return err
	}
	return &codeError{m.folds(column, shape)}
}

// apart fails where the table would take a row that is not there for another one.
func (m *mirror) apart(ctx context.Context, tx bun.Tx, r *row, shape *mirrorShape) error {
	for _, f := range m.table.PKs {
		if shape.folded[f.Name] == "" {
			continue
		}
		there, err := m.there(ctx, tx, r, &mirrorShape{}) // by the table's own idea of a key
		if err == nil && there {
			err = &codeError{m.folds(f.Name, shape)}
		}
		return err
	}
	return nil
}

func (m *mirror) folds(column string, shape *mirrorShape) error {
	m.stale.Store(true)
	e := &foldedKeyError{table: m.table.Name, column: column, by: shape.folded[column]}
	switch m.gen.Dialect().Name() {
	case dialect.PG:
		e.alter = fmt.Sprintf(`ALTER TABLE %s ALTER COLUMN %q TYPE text COLLATE "C"`,
			m.table.SQLName, column)
	case dialect.MySQL:
		e.alter = fmt.Sprintf("ALTER TABLE %s MODIFY `%s` %s "+
			"CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin NOT NULL",
			m.table.SQLName, column, shape.spelled[column])
	default:
		e.alter = fmt.Sprintf("a copy of the table with %q text COLLATE BINARY (SQLite cannot "+
			"alter a collation)", column)
	}
	return e
}
