package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// rowsOfKeys are rows with the given keys, each as its columns can store and spell it.
func (m *mirror) rowsOfKeys(
	ctx context.Context, tx bun.IDB, pks []json.RawMessage,
) ([]reflect.Value, error) {
	kinds, err := m.keyKinds(ctx, tx)
	if err != nil {
		return nil, err
	}
	rows := make([]reflect.Value, len(pks))
	for i, pk := range pks {
		if rows[i], err = m.rowOfKey(pk); err != nil {
			return nil, err
		}
		for n, f := range m.table.PKs {
			err := kinds[n].Check(f, rows[i])
			if value := f.Value(rows[i]); err == nil && value.Kind() == reflect.String &&
				kinds[n].IsRespelled(value.String()) {
				err = fmt.Errorf("column %s spells it otherwise", f.Name)
			}
			if err != nil {
				return nil, &keyError{m.model, string(pk), err}
			}
		}
	}
	return rows, nil
}

// lookUpRows says which rows are there. Those of other models in the table are not.
func (m *mirror) lookUpRows(
	ctx context.Context, tx bun.IDB, pks []json.RawMessage, kept []mirrored.Kept, withRows bool,
) error {
	asked, err := m.rowsOfKeys(ctx, tx, pks)
	if err != nil {
		return err
	}
	foreign := ""
	if m.shares() {
		foreign = m.foreign(m.gen, true)
	}
	find := func(keys []reflect.Value) ([]mirrored.ChildRow, error) {
		tuples := make([]bun.TupleValues, len(keys))
		for i, row := range keys {
			tuples[i] = bun.Tuple(valuesOf(m.table, row))
		}
		rows := stored.Of(m.table)
		query := m.everyRow(tx.NewSelect().Model(rows.Model())).
			Where("(?) IN (?)", bun.Safe(qualified(m.table)), bun.List(tuples))
		if foreign != "" {
			query = query.Where("(?) IS NOT TRUE", bun.Safe(foreign))
		}
		if !withRows {
			query = query.ColumnExpr("?", bun.Safe(qualified(m.table)))
		}
		if err := query.Scan(ctx, rows); err != nil {
			return nil, err
		}
		return listed(rows), nil
	}
	paired, err := stored.Pair(m.table.PKs, asked, find, func(r mirrored.ChildRow) reflect.Value {
		return r.Row
	})
	if err != nil {
		return err
	}
	for i, row := range paired {
		if kept[i].Present = row != nil; row != nil {
			kept[i].Row, kept[i].Nulls = row.Row, row.Nulls
		}
	}
	if withRows {
		return m.lookUpChildren(ctx, tx, kept)
	}
	return nil
}

func listed(rows *stored.Rows) []mirrored.ChildRow {
	list := make([]mirrored.ChildRow, rows.Len())
	for i := range list {
		list[i] = mirrored.ChildRow{Row: rows.Row(i), Nulls: rows.Nulls(i)}
	}
	return list
}

// lookUpChildren reads the rows of the relations of the rows that are there.
func (m *mirror) lookUpChildren(ctx context.Context, tx bun.IDB, kept []mirrored.Kept) error {
	for n, c := range m.children {
		parents := map[string]int{}
		var tuples []bun.TupleValues
		for i := range kept {
			if kept[i].Present {
				kept[i].Children = append(kept[i].Children, nil)
				parents[stored.Identity(c.relation.BasePKs, kept[i].Row)] = i
				tuples = append(tuples, bun.Tuple(values(c.relation.BasePKs, kept[i].Row)))
			}
		}
		join := bun.Safe(columns(string(c.table.SQLAlias)+".", c.relation.JoinPKs))
		for chunk := range slices.Chunk(tuples, mostAsked) {
			rows := stored.Of(c.table)
			query := tx.NewSelect().Model(rows.Model()).Where("(?) IN (?)", join, bun.List(chunk))
			if c.table.SoftDeleteField != nil {
				query = query.WhereAllWithDeleted()
			}
			if err := query.Scan(ctx, rows); err != nil {
				return err
			}
			for _, row := range listed(rows) {
				if i, asked := parents[stored.Identity(c.relation.JoinPKs, row.Row)]; asked {
					kept[i].Children[n] = append(kept[i].Children[n], row)
				}
			}
		}
	}
	return nil
}

// mostAsked is how many rows one statement asks for.
const mostAsked = 1000

// everyRow reads rows that bun takes for deleted too: the mirror knows no soft deletes.
func (b *binding) everyRow(q *bun.SelectQuery) *bun.SelectQuery {
	if b.table.SoftDeleteField != nil {
		q = q.WhereAllWithDeleted()
	}
	return q
}

func qualified(table *schema.Table) string { return columns(string(table.SQLAlias)+".", table.PKs) }

func valuesOf(table *schema.Table, row reflect.Value) []any { return values(table.PKs, row) }

func values(fields []*schema.Field, row reflect.Value) []any {
	values := make([]any, len(fields))
	for i, f := range fields {
		values[i] = f.Value(row).Interface()
	}
	return values
}
