package outbox

import (
	"context"

	"github.com/uptrace/bun"
)

// A condition is a filter that the database evaluates (cqrsync.yaml's filter). It is a part of each
// query that reads states, so no state leaves that did not match in the very same snapshot.

// whose returns an Option that sends only the rows for which a condition in SQL is true, not false
// and not NULL. Its columns stand under the model's alias. Whoever calls it has checked that it is
// one expression.
func whose(condition string) Option {
	return func(m *model) error { m.condition = condition; return nil }
}

// filters says that the model may keep rows from replicas.
func (m *model) filters() bool { return m.filter != nil || m.condition != "" }

// sends says that replicas are to have a row that was read, if there is one.
func (m *model) sends(row record) bool {
	return row.IsValid() && !row.outside && (m.filter == nil || m.filter(row.Value))
}

// matching narrows a query to the rows for which the model's condition holds.
func (m *model) matching(
	narrow func(*bun.SelectQuery) *bun.SelectQuery,
) func(*bun.SelectQuery) *bun.SelectQuery {
	if m.condition == "" {
		return narrow
	}
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		return narrow(q).Where("(?)", bun.Safe(m.condition))
	}
}

// addOutside adds the marked rows that are there, and that the condition keeps from replicas. They
// are looked for after those that match: one that comes to match in between is written by somebody
// whose own message is still to come.
func (m *model) addOutside(
	ctx context.Context, tx bun.IDB, marks []*mark, rows map[string]record,
) error {
	if m.condition == "" {
		return nil
	}
	var asked []record
	for _, d := range marks {
		if !rows[d.key].IsValid() {
			asked = append(asked, record{Value: d.row})
		}
	}
	if len(asked) == 0 {
		return nil
	}
	found, _, err := m.selectRows(ctx, tx, false, func(q *bun.SelectQuery) *bun.SelectQuery {
		return current(m.only(q, asked))
	})
	if err != nil {
		return err
	}
	for _, row := range found {
		_, key, _, err := m.keyOf(row)
		if err != nil {
			return err
		}
		if !rows[key].IsValid() {
			row.outside = true
			rows[key] = row
		}
	}
	return nil
}
