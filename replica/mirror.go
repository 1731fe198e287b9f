package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
)

// mirror makes rows of a model's messages and writes them (mirror_write.go). It writes SQL of its
// own and not bun's model queries, because those would store another value than the master's: the
// default for a zero value (nullzero), a zero for null; and would run hooks.
type mirror struct {
	*binding
	log      *slog.Logger
	gen      schema.QueryGen
	children []*childTable
	known

	mu   sync.Mutex
	sets map[string]*columnSet // by the columns' positions
}

func newMirror(e *engine, b *binding) (*mirror, error) {
	if e.db == nil {
		return nil, errors.New("the replica has no database: use HandleFunc, or pass a *bun.DB to " +
			"New")
	}
	if len(b.table.PKs) == 0 {
		return nil, errors.New("the struct has no primary key: tag its field with `bun:\",pk\"`")
	}
	if err := errors.Join(checkColumns(b.table), b.checkKey()); err != nil {
		return nil, err
	}
	b.key = b.wireKey()
	m := &mirror{binding: b, log: e.log, gen: e.db.QueryGen(), sets: map[string]*columnSet{}}
	m.init(e, b.table)
	for _, name := range b.childNames {
		child, err := newChildTable(e, m, name)
		if err != nil {
			return nil, err
		}
		m.children = append(m.children, child)
	}
	return m, nil
}

func checkColumns(table *schema.Table) error {
	for _, f := range table.Fields {
		if f.Append == nil {
			return fmt.Errorf("column %q: bun cannot write a %s", f.Name, f.StructField.Type)
		}
	}
	return nil
}

// check fails where the table or a column is missing, or is none that messages can be written to.
func (m *mirror) check(ctx context.Context, e *engine) error {
	errs := []error{checkTable(ctx, e, m.model, m.table, true)}
	for _, child := range m.children {
		errs = append(errs, checkTable(ctx, e, m.model, child.table, false))
	}
	return errors.Join(errs...)
}

func checkTable(
	ctx context.Context, e *engine, model string, table *schema.Table, upserted bool,
) error {
	_, err := e.db.ExecContext(ctx, "SELECT ? FROM ? AS r WHERE 1 = 0",
		bun.Safe(columns("r.", table.Fields)), table.SQLName)
	if err != nil {
		return fmt.Errorf("table %s of model %q: %w", table.Name, model, err)
	}
	shape, err := e.tables.TableShape(ctx, e.db, string(table.SQLName), table.Name)
	if err != nil {
		return err
	}
	return checkShape(e.db.Dialect().Name(), model, table, shape, upserted)
}

// row is what a message makes of a row of the mirror, as SQL: values are rendered where the message
// is read, so that a transaction has only to join them.
type row struct {
	deleted  bool
	known    bool       // the model's ledger has it as live, so the row is the model's
	columns  *columnSet // nil for a delete
	values   []string   // of columns.fields; of the primary key for a delete
	children []childRows
}

// columnSet are the columns that a message carries. Messages of one kind carry the same, so there
// are few sets.
type columnSet struct {
	fields []*schema.Field // primary key first
	keys   int             // how many of them are the primary key
	names  string
	update string // what an upsert does with a row that is there; empty where there is only the key
	whole  bool   // every column of the struct
}

// key is the primary key as SQL.
func (r *row) key(keys int) string {
	if keys == 1 {
		return r.values[0]
	}
	return "(" + strings.Join(r.values[:keys], ", ") + ")"
}

// tuple is the row as SQL.
func (r *row) tuple() string { return "(" + strings.Join(r.values, ", ") + ")" }

// text is the value of a column as SQL, empty where the message does not carry it.
func (r *row) text(column string) string {
	if r.columns == nil {
		return ""
	}
	for i, f := range r.columns.fields {
		if f.Name == column {
			return r.values[i]
		}
	}
	return ""
}

// prepare makes the row of a message.
func (m *mirror) prepare(msg *envelope.Message, fields map[string]json.RawMessage) (any, error) {
	instance := reflect.New(m.table.Type).Elem()
	if msg.Signal == envelope.Delete {
		instance, err := m.rowOfKey(fields["id"])
		if err != nil {
			return nil, err
		}
		key := make([]cell, len(m.table.PKs))
		for i, f := range m.table.PKs {
			key[i] = cell{f, f.Value(instance)}
		}
		return &row{deleted: true, values: m.render(key)}, nil
	}
	cells, err := m.cells(instance, msg, fields)
	if err == nil {
		err = m.checkSameKey(msg, m.key, fields)
	}
	if err != nil {
		return nil, err
	}
	r := &row{columns: m.set(cells), values: m.render(cells)}
	for _, child := range m.children {
		if err := child.prepare(r, msg, fields); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// render makes SQL of cells, parts of one text.
func (m *mirror) render(cells []cell) []string {
	text, ends := make([]byte, 0, 32*len(cells)), make([]int, len(cells))
	for i, c := range cells {
		text = c.appendTo(text, m.gen)
		ends[i] = len(text)
	}
	values, all, start := make([]string, len(cells)), string(text), 0
	for i, end := range ends {
		values[i], start = all[start:end], end
	}
	return values
}

// set is the set of the cells' columns.
func (m *mirror) set(cells []cell) *columnSet {
	var id strings.Builder
	for _, c := range cells {
		id.WriteString(c.field.Name)
		id.WriteByte(0)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if set := m.sets[id.String()]; set != nil {
		return set
	}
	set := &columnSet{whole: len(cells) == len(m.table.Fields), keys: len(m.table.PKs)}
	var updates []string
	for i, c := range cells {
		set.fields = append(set.fields, c.field)
		if i >= set.keys {
			updates = append(updates, m.assignment(c.field))
		}
	}
	set.names = columns("", set.fields)
	set.update = strings.Join(updates, ", ")
	m.sets[id.String()] = set
	return set
}

// parentKey is the key of the row that a column of the message points to, where a registered model
// has it.
func (m *mirror) parentKey(p parent, d *delivery) db.Key {
	if p.model == "" {
		return db.Key{}
	}
	value := d.fields[m.fieldName(p.Column)]
	if f := m.table.FieldMap[p.Column]; f != nil {
		value = spelled(f, value)
	}
	key, err := envelope.KeyOf(value)
	if err != nil {
		return db.Key{}
	}
	return db.Key{Model: p.model, Key: key}
}
