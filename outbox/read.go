package outbox

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// rowsByKey reads the current rows of the marked keys. A key without an entry has no row.
func (m *model) rowsByKey(
	ctx context.Context, tx bun.IDB, marks []*mark,
) (map[string]record, error) {
	rows, _, err := m.read(ctx, tx, marks, 0)
	if err != nil {
		return nil, err
	}
	byKey, err := m.byKey(rows)
	if err != nil {
		return nil, err
	}
	return byKey, m.addOutside(ctx, tx, marks, byKey)
}

func (m *model) byKey(rows []record) (map[string]record, error) {
	byKey := make(map[string]record, len(rows))
	for _, row := range rows {
		_, key, _, err := m.keyOf(row)
		if err != nil {
			return nil, err
		}
		byKey[key] = row
	}
	return byKey, nil
}

// read selects the current rows of the dirty keys for which the model's condition holds, with its
// relations; most and cut are as in scanWhole.
func (m *model) read(
	ctx context.Context, tx bun.IDB, dirty []*mark, most int,
) (rows []record, cut bool, err error) {
	keys := make([]bun.TupleValues, len(dirty))
	for i, d := range dirty {
		keys[i] = bun.Tuple(keyValues(m.table, d.row))
	}
	marked := func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("(?) IN (?)", keyColumns(m.table), bun.List(keys))
	}
	rows, cut, err = m.scanWhole(ctx, tx, m.matching(marked), current, most)
	if err != nil {
		return nil, false, fmt.Errorf("read %d rows of %s: %w", len(dirty), m.table.Name, err)
	}
	return rows, cut, nil
}

// withRelations loads the model's relations with a query; each passes lock on its way.
func (m *model) withRelations(
	query *bun.SelectQuery, lock func(*bun.SelectQuery) *bun.SelectQuery,
) *bun.SelectQuery {
	for _, path := range m.relations {
		// the relations on the way: bun reads each list with a query of its own
		for i, c := range path {
			if c == '.' && !slices.Contains(m.relations, path[:i]) {
				query = query.Relation(path[:i], inOrder(m.table, path[:i], lock)...)
			}
		}
		query = query.Relation(path, inOrder(m.table, path, lock)...)
	}
	return query
}

// current makes a query read what is committed now. Under REPEATABLE READ, which is MySQL's
// default, a plain SELECT after the ledger's lock would still read what was there before the wait
// for it; only a locking one does not. On the other databases such a transaction fails instead.
func current(q *bun.SelectQuery) *bun.SelectQuery {
	if q.Dialect().Name() == dialect.MySQL {
		q = q.For("UPDATE")
	}
	return q
}

// forUpdate makes a query lock its rows; SQLite has one writer at a time anyway.
func forUpdate(q *bun.SelectQuery) *bun.SelectQuery {
	if q.Dialect().Name() != dialect.SQLite {
		q = q.For("UPDATE")
	}
	return q
}

// inOrder makes the order of a nested list the same every time it is sent, so that equal states are
// equal messages. Relations to a single row are joined and have no order.
func inOrder(
	table *schema.Table, path string, lock func(*bun.SelectQuery) *bun.SelectQuery,
) []func(*bun.SelectQuery) *bun.SelectQuery {
	var last *schema.Relation
	for name := range strings.SplitSeq(path, ".") {
		last = table.Relations[name]
		table = last.JoinTable
	}
	if last.Type != schema.HasManyRelation && last.Type != schema.ManyToManyRelation {
		return nil
	}
	return []func(*bun.SelectQuery) *bun.SelectQuery{func(q *bun.SelectQuery) *bun.SelectQuery {
		if columns, said := strings.CutPrefix(last.Field.StructField.Tag.Get(nestedTag),
			orderedBy); said {
			for column := range strings.SplitSeq(columns, ",") {
				q = q.OrderExpr("?.?", table.SQLAlias, bun.Ident(column))
			}
			return lock(q)
		}
		for _, pk := range table.PKs {
			q = q.OrderExpr("?.?", table.SQLAlias, pk.SQLName)
		}
		return lock(q)
	}}
}
