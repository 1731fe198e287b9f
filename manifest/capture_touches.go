package manifest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/capture"
	"github.com/cqrsync/cqrsync/internal/catalog"
)

// touching are rows of another table that belong to the model's.
type touching struct {
	setting string // of the file, that says so
	table   string
	keys    Names
}

// touches are what the file says under touch, and the tables of the relations: a write of what is
// nested changes the entity.
func (m Model) touches() (all []touching) {
	add := func(t touching) {
		same := func(o touching) bool { return o.table == t.table && slices.Equal(o.keys, t.keys) }
		if !slices.ContainsFunc(all, same) {
			all = append(all, t)
		}
	}
	for _, table := range slices.Sorted(maps.Keys(m.Touch)) {
		add(touching{"touch", table, m.Touch[table]})
	}
	for _, name := range slices.Sorted(maps.Keys(m.Relations)) {
		add(touching{"relations: " + name, m.Relations[name].Table, m.Relations[name].Key})
	}
	return all
}

// capturedTouch adds the table to those that get triggers for a model.
func (m Model) capturedTouch(ctx context.Context, db *bun.DB, t touching, c *capture.Model) error {
	columns, err := columnsOf(ctx, db, t.table)
	if err != nil {
		return fmt.Errorf("%s: %w", t.setting, err)
	}
	if len(t.keys) != len(c.Key) {
		return fmt.Errorf("%s: table %s: %d columns, want the %d that hold the key of %s",
			t.setting, t.table, len(t.keys), len(c.Key), m.Table)
	}
	var errs []error
	touch := capture.Touch{Table: t.table}
	for i, name := range t.keys {
		at := slices.IndexFunc(columns, func(c catalog.Column) bool { return c.Name == name })
		if at < 0 {
			errs = append(errs, fmt.Errorf("%s: table %s has no column %q", t.setting, t.table, name))
			continue
		}
		columns[at].IsKey = true
		said := m.Types[c.Key[i].Name]
		column, err := capturedColumn(db, columns[at], said)
		if err == nil && said == "" && column.Kind != c.Key[i].Kind {
			err = fmt.Errorf("its type %s cannot hold column %s of %s: make them alike",
				columns[at].Type, c.Key[i].Name, m.Table)
		}
		if err != nil {
			err = fmt.Errorf("%s: column %q of table %s: %w", t.setting, name, t.table, err)
			errs = append(errs, err)
		}
		touch.Columns = append(touch.Columns, column)
	}
	c.Touch = append(c.Touch, touch)
	return errors.Join(errs...)
}

// capturedRelations has PostgreSQL nest the rows of other tables; elsewhere the sweep does.
func (m Model) capturedRelations(ctx context.Context, db *bun.DB, c *capture.Model) error {
	all, err := m.nestedTables(ctx, db)
	if err != nil || len(all) == 0 {
		return err
	}
	if _, err := typeOf(ctx, db, m); err != nil || db.Dialect().Name() != dialect.PG {
		return err // it knows what a column may be that holds the key
	}
	var errs []error
	for _, n := range all {
		r := capture.Relation{
			Name: n.name, Table: n.Table, Many: n.Many, Columns: n.Key, Order: n.order,
		}
		for _, column := range n.read {
			if !n.sends(column) {
				continue
			}
			column.IsKey = column.IsKey || slices.Contains(n.Key, column.Name)
			captured, err := capturedColumn(db, column, m.saidOfKey(n.Key, column.Name, c.Key))
			if err != nil {
				errs = append(errs, fmt.Errorf("relations: %s: column %q of table %s: %w",
					n.name, column.Name, n.Table, err))
				continue
			}
			r.Fields = append(r.Fields, capture.Field{
				Name: column.Name, Column: captured, Finite: m.NaNAsNull,
			})
		}
		c.Relations = append(c.Relations, r)
	}
	return errors.Join(errs...)
}

// saidOfKey is what the file says of the column of the key that another table's column holds.
func (m Model) saidOfKey(holds Names, column string, key []capture.Column) string {
	at := slices.Index(holds, column)
	if at < 0 || at >= len(key) {
		return ""
	}
	return m.Types[key[at].Name]
}
