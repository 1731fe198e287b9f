package capture

import (
	"context"
	"fmt"
	"strings"

	"github.com/uptrace/bun"
)

// MariaDB and SQLite have triggers for single rows only, and none that waits for the commit. Their
// triggers note the keys in outbox_dirty, in the writer's own transaction; a sweep in Go makes the
// messages afterwards, or the flush of a session in Go that is the writer itself.

// rowsEngine captures with triggers for single rows.
type rowsEngine struct {
	db     *bun.DB
	prefix string
	in     rowSQL
}

// rowSQL is what the two databases write differently.
type rowSQL interface {
	quote(name string) string
	// table makes outbox_dirty.
	table(name string) []string
	// text is a column's value as the text of a key, json the same as a part of a list.
	text(column string) string
	json(c Column, column string) string
	concat(parts ...string) string
	// isUUID is a condition: a uuid is spelled as its column is to. Empty where there is one spelling.
	isUUID(c Column, column string) string
	// refuse is the statement of a trigger that fails unless a condition holds.
	refuse(unless, message string) string
	// session is what tells one writer's rows from another's, before they are committed.
	session() string
	// insert is the statement of a trigger that inserts values where all conditions hold.
	insert(into string, values, conditions []string) string
	// create makes a trigger, or makes it anew.
	create(name, when, event, table, body string) []string
	// same is a condition: the row keeps its key.
	same(a, b string) string
	// texts reads the triggers of a database: their table, name, and text.
	texts() string
	// others are triggers beside those of the events: by what they must see (REPLACE).
	others(ctx context.Context, db *bun.DB, e *rowsEngine, m Model, t target) ([]wanted, error)
	// refuses says why a table cannot be captured. Rows that go with one of owner, whose trigger
	// sees that, are no reason.
	refuses(ctx context.Context, db *bun.DB, table, owner string) error
	// hasColumn says whether a table has a column.
	exists(ctx context.Context, db *bun.DB, table string) error
}

func (e *rowsEngine) dirty() string { return e.in.quote(e.prefix + "outbox_dirty") }

func (e *rowsEngine) base() []string { return e.in.table(e.dirty()) }

func (e *rowsEngine) plan(ctx context.Context, m Model) (plan, error) {
	if len(m.Track) > 0 {
		return plan{}, fmt.Errorf("track: the values before a change are kept by triggers of " +
			"PostgreSQL only; here the ledger keeps them, for a service that registers the model " +
			"with outbox.TrackPrevious")
	}
	if err := e.in.exists(ctx, e.db, m.Table); err != nil {
		return plan{}, err
	}
	if err := e.in.refuses(ctx, e.db, m.Table, ""); err != nil {
		return plan{}, err
	}
	p := plan{model: m}
	targets := []target{{name: e.quoted(m.Table)}}
	for i := range m.Touch {
		if err := e.in.exists(ctx, e.db, m.Touch[i].Table); err != nil {
			return plan{}, err
		}
		if err := e.in.refuses(ctx, e.db, m.Touch[i].Table, m.Table); err != nil {
			return plan{}, fmt.Errorf("touch: %w", err)
		}
		targets = append(targets, target{name: e.quoted(m.Touch[i].Table), touch: &m.Touch[i]})
	}
	for _, t := range targets {
		p.triggers = append(p.triggers, e.triggers(m, t)...)
		more, err := e.in.others(ctx, e.db, e, m, t)
		if err != nil {
			return plan{}, err
		}
		p.triggers = append(p.triggers, more...)
	}
	var text []string
	for _, w := range p.triggers {
		text = append(text, w.create)
	}
	p.digest = digest(append(text, e.base()...))
	return p, nil
}

func (e *rowsEngine) quoted(table string) string {
	schema, name, qualified := strings.Cut(table, ".")
	if !qualified {
		return e.in.quote(table)
	}
	return e.in.quote(schema) + "." + e.in.quote(name)
}

// key is the key of a row as text.
func (e *rowsEngine) key(columns []Column, row string) string {
	if len(columns) == 1 {
		return e.in.text(e.column(columns[0], row))
	}
	parts := []string{"'['"}
	for i, c := range columns {
		if i > 0 {
			parts = append(parts, "','")
		}
		parts = append(parts, e.in.json(c, e.column(c, row)))
	}
	return e.in.concat(append(parts, "']'")...)
}

// column is one of the key, as a text says it.
func (e *rowsEngine) column(c Column, row string) string {
	column := row + "." + e.in.quote(c.Name)
	if c.Kind == BinaryUUID {
		return "lower(hex(" + column + "))"
	}
	return column
}

// misspelled refuses a uuid that its column does not spell as cqrsync would: whoever has the uuid
// would not find the row.
func (e *rowsEngine) misspelled(columns []Column) (statements string) {
	for _, c := range columns {
		if unless := e.in.isUUID(c, "NEW."+e.in.quote(c.Name)); unless != "" {
			statements += e.in.refuse(unless, "cqrsync: column "+c.Name+
				": want a uuid in lower case, as its column spells them")
		}
	}
	return statements
}

// note is the statement that notes a key. Nothing is noted for a row that belongs to nobody.
func (e *rowsEngine) note(m Model, t target, row, op, where string) string {
	columns := m.Key
	var conditions []string
	if t.touch != nil {
		columns, op = t.touch.Columns, "t"
		for _, c := range columns {
			conditions = append(conditions, row+"."+e.in.quote(c.Name)+" IS NOT NULL")
		}
	}
	if where != "" {
		conditions = append(conditions, where)
	}
	return e.in.insert("INSERT INTO "+e.dirty()+" (session, model, "+e.in.quote("key")+", op)",
		[]string{e.in.session(), literal(m.ID), e.key(columns, row), literal(op)}, conditions)
}

func (e *rowsEngine) triggers(m Model, t target) []wanted {
	columns := m.Key
	if t.touch != nil {
		columns = t.touch.Columns
	}
	same := e.in.same(e.key(columns, "OLD"), e.key(columns, "NEW"))
	bodies := map[string]string{
		"INSERT": e.note(m, t, "NEW", "i", ""),
		"UPDATE": e.note(m, t, "NEW", "u", same) +
			e.note(m, t, "OLD", "d", "NOT ("+same+")") + e.note(m, t, "NEW", "i", "NOT ("+same+")"),
		"DELETE": e.note(m, t, "OLD", "d", ""),
	}
	if t.touch != nil {
		bodies["UPDATE"] = e.note(m, t, "OLD", "t", "") + e.note(m, t, "NEW", "t", "")
	}
	bodies["INSERT"] = e.misspelled(columns) + bodies["INSERT"]
	bodies["UPDATE"] = e.misspelled(columns) + bodies["UPDATE"]
	var all []wanted
	for _, event := range events {
		all = append(all, wanted{
			table: t.name, name: e.prefix + m.trigger(t, event.letter, e.prefix),
			when: "AFTER", event: event.verb, create: bodies[event.verb],
		})
	}
	return all
}

// statements makes a trigger. The comment in its body is how check tells one generation from
// another.
func (e *rowsEngine) statements(p plan, w wanted) []string {
	mark := strings.ReplaceAll(comment(p.model.ID, p.digest), "*/", "")
	body := "BEGIN /* " + mark + " */ " + w.create + "END"
	return e.in.create(w.name, w.when, w.event, w.table, body)
}
