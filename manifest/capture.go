package manifest

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/capture"
	"github.com/cqrsync/cqrsync/internal/store"
)

// Captured are the models as the triggers of a database know them (relay capture).
func (m *Manifest) Captured(ctx context.Context, db *bun.DB) ([]capture.Model, error) {
	var all []capture.Model
	err := m.each(func(id string, model Model) error {
		captured, err := model.captured(ctx, db, id)
		all = append(all, captured)
		return err
	})
	return all, err
}

func (m Model) captured(ctx context.Context, db *bun.DB, id string) (capture.Model, error) {
	c := capture.Model{ID: id, Table: m.Table}
	columns, err := columnsOf(ctx, db, m.Table)
	if err != nil {
		return c, err
	}
	if err := m.checkNames(columns); err != nil {
		return c, err
	}
	slices.SortStableFunc(columns, func(a, b store.Column) int { return m.rank(a.Name) - m.rank(b.Name) })
	var errs []error
	for _, column := range columns {
		if len(m.Key) > 0 {
			column.IsKey = slices.Contains(m.Key, column.Name)
		}
		if !m.takes(column) {
			continue
		}
		captured, err := m.capturedColumn(db, column)
		if err != nil {
			errs = append(errs, fmt.Errorf("column %q of table %s: %w", column.Name, m.Table, err))
			continue
		}
		name := column.Name
		if other, renamed := m.Map[name]; renamed {
			name = other
		}
		c.Fields = append(c.Fields, capture.Field{Name: name, Column: captured, Finite: m.NaNAsNull})
		if column.IsKey {
			c.Key = append(c.Key, captured)
		}
	}
	if len(c.Key) == 0 {
		errs = append(errs, fmt.Errorf("table %s has no primary key: name the columns under key", m.Table))
	}
	return c, errors.Join(errs...)
}

// kinds are what PostgreSQL's types are to triggers: the same text as the Go types of goType make.
var kinds = map[family]capture.Kind{
	texts: capture.Text, integers: capture.Integer, truths: capture.Bool, singles: capture.Float,
	doubles: capture.Float, moments: capture.Moment, dates: capture.Date, documents: capture.JSON,
	binaries: capture.Bytes, paddedTexts: capture.PaddedText, decimals: capture.Decimal, uuids: capture.UUID,
}

func (m Model) capturedColumn(db *bun.DB, c store.Column) (capture.Column, error) {
	if m.Types[c.Name] != "" {
		return capture.Column{}, errors.New("types: triggers read columns as the database has them: take it out of types")
	}
	if _, err := fieldOf(c, 0, db.Dialect().Name(), ""); err != nil {
		return capture.Column{}, err
	}
	f, _ := familyOf(db.Dialect().Name(), c)
	kind, known := kinds[f]
	if !known {
		return capture.Column{}, fmt.Errorf("its type %s is not known to triggers", c.Type)
	}
	if kind == capture.Text && c.Base != "text" && c.Base != "varchar" {
		kind = capture.Printed
	}
	return capture.Column{Name: c.Name, Kind: kind, Array: c.Array, Null: !c.NotNull && !c.IsKey}, nil
}
