package outbox

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// insertion is what the text of an INSERT says of the keys of its rows.
type insertion struct {
	conflict onConflict
	literal  []bool // per row: the key is in the text, as its model has it
	drawn    []bool // per row: the text leaves the key to the database
	returned bool   // RETURNING gives the key columns as they are stored
}

// onConflict is what an INSERT does with a row that is there already. Only the first leaves no
// doubt that its rows are new.
type onConflict int

const (
	conflictFails onConflict = iota
	conflictSkips
	conflictUpdates
)

// insertion reads an INSERT as bun writes it, or says why that cannot be.
func (m *model) insertion(event *bun.QueryEvent, rows []reflect.Value) (*insertion, string) {
	in := &insertion{conflict: conflictOf(event)}
	keys, tail, reason := literals(event, rows, m.table.PKs)
	if in.literal, in.drawn = keys.literal, keys.drawn; reason != "" {
		return nil, reason
	}
	in.returned = returnsKey(lex(tail, event.DB.Dialect().Name()), m.table.PKs)
	if !in.returned && in.conflict == conflictFails && len(rows) > 1 &&
		slices.Contains(in.literal, false) {
		return nil, "the database draws keys of several rows, and RETURNING does not bring them " +
			"all back: leave RETURNING to bun, or name the key columns in it"
	}
	return in, ""
}

// texts says of each row of an INSERT whether some columns stand in its text as the row has them,
// and whether it leaves them to the database. A row may be neither: an expression may be any value.
type texts struct{ literal, drawn []bool }

// literals reads them, and what follows the values. The reason says why the text cannot be read,
// nothing where it can.
func literals(
	event *bun.QueryEvent, rows []reflect.Value, fields []*schema.Field,
) (found texts, tail, reason string) {
	columns, values, rest := insertParts(event.Query, backslashEscapes(event))
	if columns == nil {
		return found, "", "its text is not INSERT … (columns) VALUES (…), as bun writes it"
	}
	at := make([]int, len(fields)) // in the list, -1 for one that is left out
	for i, field := range fields {
		at[i] = slices.IndexFunc(columns, func(c string) bool {
			return strings.EqualFold(c, field.Name)
		})
	}
	for row := range values {
		n := len(found.literal)
		if n == len(rows) {
			return found, "", "it has more rows than its model"
		}
		whole := len(row) == len(columns)
		drawn := whole
		for i, field := range fields {
			drawn = drawn && (at[i] < 0 || row[at[i]] == "DEFAULT" || row[at[i]] == "NULL")
			whole = whole && at[i] >= 0 && !isDrawn(field, rows[n]) &&
				row[at[i]] == string(field.AppendValue(event.DB.QueryGen(), nil, rows[n]))
		}
		found.literal, found.drawn = append(found.literal, whole), append(found.drawn, drawn)
	}
	if tail = rest(); len(found.literal) != len(rows) || tail == unreadable {
		return found, "", "its VALUES cannot be read: a comment or a quote in an expression hides " +
			"them"
	}
	return found, tail, ""
}

// isDrawn says that bun leaves the key column of a row to the database.
func isDrawn(pk *schema.Field, row reflect.Value) bool {
	return pk.HasZeroValue(row) && (pk.NullZero || pk.SQLDefault != "") ||
		pk.IsPtr && pk.HasNilValue(row)
}

// returnsKey says that RETURNING names all key columns, or *, and that nothing else in it may bring
// a value under the name of one: an expression that mentions it, or calls itself so.
func returnsKey(tokens iter.Seq[token], pks []*schema.Field) bool {
	var items [][]token
	in := false
	depth := 0
	for t := range tokens {
		switch {
		case !in:
			in = t.is("RETURNING")
			if in {
				items = [][]token{nil}
			}
			continue
		case t.text == "(" && !t.quoted:
			depth++
		case t.text == ")" && !t.quoted:
			depth--
		case t.text == "," && !t.quoted && depth == 0:
			items = append(items, nil)
			continue
		}
		items[len(items)-1] = append(items[len(items)-1], t)
	}
	found := map[string]bool{}
	for _, item := range items {
		name, plain := plainColumn(item)
		for _, pk := range pks {
			switch {
			case plain && (name == "*" || strings.EqualFold(name, pk.Name)):
				found[pk.Name] = true
			case !plain && slices.ContainsFunc(item, func(t token) bool {
				return strings.EqualFold(t.text, pk.Name)
			}):
				return false
			}
		}
	}
	return in && len(found) == len(pks)
}

// plainColumn is the name of an item that is a column, t.column or *.
func plainColumn(item []token) (string, bool) {
	if len(item) == 3 && item[0].name && item[1].text == "." {
		item = item[2:]
	}
	if len(item) != 1 || !item[0].name && item[0].text != "*" {
		return "", false
	}
	return item[0].text, true
}

// wrote says what an INSERT of n rows, with that effect, did with each of them.
func (in insertion) wrote(n int, e effect) deed {
	switch {
	case in.conflict == conflictFails:
		return created
	case in.conflict == conflictSkips && e.affected == int64(n) && !in.returned:
		return created
	case in.conflict == conflictUpdates && e.affected >= int64(n):
		return written
	}
	return touched
}

// insertedRows lists the rows of an INSERT that inserted some: as many as the database did, or an
// error.
func (s *session) insertedRows(
	ctx context.Context, event *bun.QueryEvent, c *captured, e effect,
) ([]touchedRow, error) {
	m, in := c.model, c.insert
	n := len(c.rows)
	how := in.wrote(n, e)
	returned, fresh := m.returnedRows(event, c, e)
	if !fresh {
		if err := s.keptKeys(ctx, c, e); err != nil {
			return nil, err
		}
	}
	// the returned rows are those of the text, under their stored keys
	all := fresh && e.affected == int64(n)
	var rows []touchedRow
	known := 0
	for i, row := range c.rows {
		switch {
		case all:
			row = returned[i]
		case !in.literal[i]:
			continue
		}
		known++
		rows = append(rows, touchedRow{model: m, row: row, how: how})
	}
	if fresh && !all { // which of them these are, is not known
		for _, row := range returned {
			rows = append(rows, touchedRow{model: m, row: row, how: written})
		}
		known = n
	}
	if in.conflict == conflictSkips && backslashEscapes(event) {
		if err := s.askWarnings(ctx, c); err != nil {
			return rows, err
		}
	}
	if known >= n {
		return rows, nil
	}
	if n == 1 && (in.drawn[0] || event.DB.Dialect().Name() == dialect.SQLite) {
		row, err := m.lastInserted(ctx, s.quiet(), s.box.catalog)
		if err != nil {
			return rows, err
		}
		if row.IsValid() {
			return append(rows, touchedRow{model: m, row: row, how: how}), nil
		}
	}
	return rows, unseen("INSERT", m.table.Name,
		fmt.Sprintf("it inserted rows whose keys the database drew, and did not bring "+
			"them back into its model (%d of %d are known): leave RETURNING to bun and scan into "+
			"the model", known, n))
}

// returnedRows are the rows that RETURNING wrote into the model: the first ones, as many as the
// database counted. fresh says that it did: one has another key than before. Else it may have gone
// into another variable.
func (m *model) returnedRows(
	event *bun.QueryEvent, c *captured, e effect,
) (rows []reflect.Value, fresh bool) {
	if !c.insert.returned || e.affected < 1 || e.affected > int64(len(c.rows)) {
		return nil, false
	}
	_ = eachRow(reflect.ValueOf(event.Model.Value()), func(row reflect.Value) error {
		if len(rows) < int(e.affected) {
			rows = append(rows, m.copyOf(row))
		}
		return nil
	})
	if len(rows) < int(e.affected) {
		return nil, false
	}
	for i, row := range rows {
		_, key, ok, err := m.keyOf(record{Value: row})
		if !ok || err != nil {
			return nil, false
		}
		_, before, known, err := m.keyOf(record{Value: c.rows[i]})
		fresh = fresh || err == nil && (!known || key != before)
	}
	return rows, fresh
}
