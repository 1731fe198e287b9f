package outbox

import (
	"context"
	"fmt"
	"iter"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// insertion is what the text of an INSERT says of the keys of its rows.
type insertion struct {
	conflict onConflict
	literal  []bool // per row: the key is in the text, as its model has it
	returned bool   // RETURNING gives the key columns as they are stored
	meets    bool   // a row of a key in the text was there before, and a trigger may have changed the new one's
}

// onConflict is what an INSERT does with a row that is there already. Only the first leaves no doubt that its rows are
// new.
type onConflict int

const (
	conflictFails onConflict = iota
	conflictSkips
	conflictUpdates
)

// insertion reads an INSERT as bun writes it, or says why that cannot be.
func (m *model) insertion(event *bun.QueryEvent, rows []reflect.Value) (*insertion, string) {
	in := &insertion{conflict: conflictOf(event)}
	var tail, reason string
	if in.literal, tail, reason = literals(event, rows, m.table.PKs); reason != "" {
		return nil, reason
	}
	in.returned = returnsKey(lex(tail, event.DB.Dialect().Name()), m.table.PKs)
	if !in.returned && in.conflict == conflictFails && len(rows) > 1 && slices.Contains(in.literal, false) {
		return nil, "the database draws keys of several rows, and RETURNING does not bring them all back: " +
			"leave RETURNING to bun, or name the key columns in it"
	}
	return in, ""
}

// literals says of each row of an INSERT whether the columns stand in its text as the row has them, and what follows the
// values. The reason says why the text cannot be read, nothing where it can.
func literals(event *bun.QueryEvent, rows []reflect.Value, fields []*schema.Field) (literal []bool, tail, reason string) {
	columns, values, rest := insertParts(event.Query, backslashEscapes(event))
	if columns == nil {
		return nil, "", "its text is not INSERT … (columns) VALUES (…), as bun writes it"
	}
	at := make([]int, len(fields)) // in the list, -1 for one that is left out
	for i, field := range fields {
		at[i] = slices.IndexFunc(columns, func(c string) bool { return strings.EqualFold(c, field.Name) })
	}
	for row := range values {
		n := len(literal)
		if n == len(rows) {
			return nil, "", "it has more rows than its model"
		}
		whole := len(row) == len(columns)
		for i, field := range fields {
			whole = whole && at[i] >= 0 && !isDrawn(field, rows[n]) &&
				row[at[i]] == string(field.AppendValue(event.DB.QueryGen(), nil, rows[n]))
		}
		literal = append(literal, whole)
	}
	if tail = rest(); len(literal) != len(rows) || tail == unreadable {
		return nil, "", "its VALUES cannot be read: a comment or a quote in an expression hides them"
	}
	return literal, tail, ""
}

// isDrawn says that bun leaves the key column of a row to the database.
func isDrawn(pk *schema.Field, row reflect.Value) bool {
	return pk.HasZeroValue(row) && (pk.NullZero || pk.SQLDefault != "") || pk.IsPtr && pk.HasNilValue(row)
}

// returnsKey says that RETURNING names all key columns, or *, and that nothing else in it may bring a value under the
// name of one: an expression that mentions it, or calls itself so.
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
			case !plain && slices.ContainsFunc(item, func(t token) bool { return strings.EqualFold(t.text, pk.Name) }):
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

// meets notes whether rows of the keys in the text are there already, where a trigger may give a row another key than
// its INSERT says: if that then succeeds, the flush would take the old row for the new one.
func (s *session) meets(ctx context.Context, c *captured) error {
	in := c.insert
	if in.returned || in.conflict != conflictFails || !slices.Contains(in.literal, true) {
		return nil
	}
	traits, err := c.model.traits(ctx, s.box, s.quiet())
	if err != nil || !traits.ChangesKeys {
		return err
	}
	var named []reflect.Value
	for i, row := range c.rows {
		if in.literal[i] {
			named = append(named, row)
		}
	}
	there, err := c.model.stored(ctx, s.quiet(), named)
	in.meets = len(there) > 0
	return err
}

// insertedRows lists the rows of an INSERT that inserted some: as many as the database did, or an error.
func (s *session) insertedRows(
	ctx context.Context, event *bun.QueryEvent, c *captured, e effect,
) ([]touchedRow, error) {
	m, in := c.model, c.insert
	n := len(c.rows)
	if in.meets {
		return nil, unseen("INSERT", m.table.Name, "a trigger gave its row another key than it names: "+
			"add Returning with the key columns")
	}
	how := touched
	switch {
	case in.conflict == conflictFails, in.conflict == conflictSkips && e.affected == int64(n) && !in.returned:
		how = created
	case in.conflict == conflictUpdates && e.affected >= int64(n):
		how = written
	}
	after := m.filled(event, c, n)
	var rows []touchedRow
	for i, row := range c.rows {
		switch {
		case after != nil && after[i].IsValid():
			row = after[i]
		case !in.literal[i]:
			continue
		}
		rows = append(rows, touchedRow{model: m, row: row, how: how})
	}
	if in.conflict != conflictFails && after == nil && in.returned { // rows came back, of which is not known
		for _, row := range m.returnedKeys(event) {
			rows = append(rows, touchedRow{model: m, row: row, how: touched})
		}
	}
	if want := e.affected; len(rows) >= n || want >= 0 && int64(len(rows)) >= want && in.conflict != conflictFails {
		return rows, nil
	}
	if n == 1 {
		row, err := m.lastInserted(ctx, s.quiet(), s.box.store)
		if err != nil {
			return rows, err
		}
		if row.IsValid() {
			return append(rows, touchedRow{model: m, row: row, how: how}), nil
		}
	}
	return rows, unseen("INSERT", m.table.Name, fmt.Sprintf("it inserted rows whose keys the database drew, and did not bring "+
		"them back into its model (%d of %d are known): leave RETURNING to bun and scan into the model", len(rows), n))
}

// filled are the rows of the model after the statement, as far as RETURNING wrote their keys: it may have gone into
// another variable. It is nil where rows cannot be told from each other.
func (m *model) filled(event *bun.QueryEvent, c *captured, n int) []reflect.Value {
	if !c.insert.returned || c.insert.conflict != conflictFails {
		return nil
	}
	rows := make([]reflect.Value, 0, n)
	_ = eachRow(reflect.ValueOf(event.Model.Value()), func(row reflect.Value) error {
		rows = append(rows, m.copyOf(row))
		return nil
	})
	if len(rows) != n {
		return nil
	}
	for i, row := range rows {
		_, key, ok, err := m.keyOf(record{Value: row})
		_, before, known, _ := m.keyOf(record{Value: c.rows[i]})
		if err != nil || !ok || !c.insert.literal[i] && known && key == before {
			rows[i] = reflect.Value{}
		}
	}
	return rows
}

// returnedKeys are the rows of the model that have a key after the statement.
func (m *model) returnedKeys(event *bun.QueryEvent) []reflect.Value {
	var rows []reflect.Value
	_ = eachRow(reflect.ValueOf(event.Model.Value()), func(row reflect.Value) error {
		if _, _, ok, err := m.keyOf(record{Value: row}); ok && err == nil {
			rows = append(rows, m.copyOf(row))
		}
		return nil
	})
	return rows
}
