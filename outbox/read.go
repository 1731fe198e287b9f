package outbox

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// rowsByKey reads the current rows of the marked keys. A key without an entry has no row.
func (m *model) rowsByKey(ctx context.Context, tx bun.IDB, marks []*mark) (map[string]reflect.Value, error) {
	rows, err := m.read(ctx, tx, marks)
	if err != nil {
		return nil, err
	}
	byKey := make(map[string]reflect.Value, rows.Len())
	for i := range rows.Len() {
		_, key, _, err := m.keyOf(rows.Index(i))
		if err != nil {
			return nil, err
		}
		byKey[key] = rows.Index(i)
	}
	return byKey, nil
}

// read selects the current rows of the dirty keys, with the model's relations.
func (m *model) read(ctx context.Context, tx bun.IDB, dirty []*mark) (reflect.Value, error) {
	rows := reflect.New(reflect.SliceOf(m.table.Type))
	query := tx.NewSelect().Model(rows.Interface())
	keys := make([]bun.TupleValues, len(dirty))
	for i, d := range dirty {
		keys[i] = bun.Tuple(keyValues(m.table, d.row))
	}
	query = query.Where("(?) IN (?)", keyColumns(m.table), bun.List(keys))
	for _, name := range m.relations {
		query = query.Relation(name, orderByKey(m.table, name)...)
	}
	if err := query.Scan(ctx); err != nil {
		return reflect.Value{}, fmt.Errorf("read %d rows of %s: %w", len(dirty), m.table.Name, err)
	}
	return rows.Elem(), nil
}

// orderByKey makes the order of a nested list the same every time it is sent, so that equal states are equal messages.
// Relations to a single row are joined and have no order.
func orderByKey(table *schema.Table, path string) []func(*bun.SelectQuery) *bun.SelectQuery {
	var last *schema.Relation
	for name := range strings.SplitSeq(path, ".") {
		last = table.Relations[name]
		table = last.JoinTable
	}
	if last.Type != schema.HasManyRelation && last.Type != schema.ManyToManyRelation {
		return nil
	}
	return []func(*bun.SelectQuery) *bun.SelectQuery{func(q *bun.SelectQuery) *bun.SelectQuery {
		for _, pk := range table.PKs {
			q = q.OrderExpr("?.?", table.SQLAlias, pk.SQLName)
		}
		return q
	}}
}
