package outbox

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// exactKeys says that a key which the database finds has just the value that it was asked for.
// Texts and times do not: a collation, an upper-case uuid, a padded char(8) or a date with a clock
// are equal to what is stored otherwise.
func (m *model) exactKeys() bool {
	for _, pk := range m.table.PKs {
		if kind := pk.IndirectType.Kind(); kind < reflect.Bool || kind > reflect.Uint64 {
			return false
		}
	}
	return true
}

// stored reads the keys of the rows that the database finds by the given ones, as it stores them.
func (m *model) stored(
	ctx context.Context, tx bun.IDB, rows []reflect.Value,
) ([]reflect.Value, error) {
	return m.storedAs(ctx, tx, rows, current)
}

func (m *model) storedAs(
	ctx context.Context, tx bun.IDB, rows []reflect.Value,
	lock func(*bun.SelectQuery) *bun.SelectQuery,
) ([]reflect.Value, error) {
	var found []reflect.Value
	for chunk := range slices.Chunk(rows, flushBatch) {
		read, err := m.keysWhere(ctx, tx, lock, "(?) IN (?)", keyColumns(m.table), m.keysOf(chunk))
		if err != nil {
			return nil, err
		}
		found = append(found, read...)
	}
	return found, nil
}

// found is stored with what else the given rows hold, which a DELETE message may be made of. It
// locks the rows: else another transaction could give one another spelling before the DELETE runs,
// which would still find it, and the key that is gone from the table would stay at the replicas.
func (m *model) found(
	ctx context.Context, tx bun.IDB, given []reflect.Value,
) ([]reflect.Value, error) {
	rows, err := m.storedAs(ctx, tx, given, forUpdate)
	if err != nil || m.deleteData == nil {
		return rows, err
	}
	byKey := map[string]reflect.Value{}
	for _, row := range given {
		if _, key, _, err := m.keyOf(record{Value: row}); err == nil {
			byKey[key] = row
		}
	}
	for i, row := range rows {
		_, key, _, err := m.keyOf(record{Value: row})
		if err != nil {
			return nil, err
		}
		whole := byKey[key]
		if len(given) == 1 {
			whole = given[0]
		}
		if whole.IsValid() {
			rows[i] = m.copyOf(whole)
			for _, pk := range m.table.PKs {
				pk.Value(rows[i]).Set(pk.Value(row))
			}
		}
	}
	return rows, nil
}

// versions reads an expression, which changes with a write, of those of the rows that are stored.
func (m *model) versions(
	ctx context.Context, tx bun.IDB, rows []reflect.Value, expr string,
	lock func(*bun.SelectQuery) *bun.SelectQuery,
) ([]string, error) {
	var all []string
	for chunk := range slices.Chunk(rows, flushBatch) {
		var read []string
		query := tx.NewSelect().Model(reflect.New(m.table.Type).Interface()).ColumnExpr(expr).
			Where("(?) IN (?)", keyColumns(m.table), m.keysOf(chunk))
		if m.table.SoftDeleteField != nil {
			query = query.WhereAllWithDeleted()
		}
		if err := lock(query).Scan(ctx, &read); err != nil {
			return nil, fmt.Errorf("read versions of rows of %s: %w", m.table.Name, err)
		}
		all = append(all, read...)
	}
	return all, nil
}

// keysOf lists the keys of rows for an IN.
func (m *model) keysOf(rows []reflect.Value) any {
	keys := make([]bun.TupleValues, len(rows))
	for i, row := range rows {
		keys[i] = bun.Tuple(keyValues(m.table, row))
	}
	return bun.List(keys)
}

// keysWhere reads the keys of the rows that a condition finds, also those that are deleted softly.
func (m *model) keysWhere(
	ctx context.Context, tx bun.IDB, lock func(*bun.SelectQuery) *bun.SelectQuery, condition string,
	args ...any,
) ([]reflect.Value, error) {
	rows := reflect.New(reflect.SliceOf(m.table.Type))
	query := tx.NewSelect().Model(rows.Interface()).ColumnExpr("?",
		keyColumns(m.table)).Where(condition, args...)
	if m.table.SoftDeleteField != nil {
		query = query.WhereAllWithDeleted()
	}
	if err := lock(query).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", m.table.Name, err)
	}
	found := make([]reflect.Value, rows.Elem().Len())
	for i := range found {
		found[i] = rows.Elem().Index(i)
	}
	return found, nil
}

// lastInserted reads the key that the database drew for the one row of the last statement. It is
// invalid where the catalog does not say that the database draws that key, and nothing else in the
// statement could have drawn another.
func (m *model) lastInserted(
	ctx context.Context, tx bun.IDB, c *catalog.Catalog,
) (reflect.Value, error) {
	// Sequences draw integers; SQLite knows the row itself.
	if len(m.table.PKs) != 1 || !m.exactKeys() && tx.Dialect().Name() != dialect.SQLite {
		return reflect.Value{}, nil
	}
	pk := m.table.PKs[0]
	condition := c.LastInserted(string(m.table.SQLName), pk.Name, string(pk.SQLName))
	found, err := m.keysWhere(ctx, tx, current, "?", bun.Safe(condition))
	if err != nil || len(found) != 1 {
		return reflect.Value{}, err
	}
	return found[0], nil
}

// traitsFor is how long the catalog's word on a table is taken where only an oddity hangs on it.
const traitsFor = time.Minute

// traits asks the catalog once in a while what else writes the model's table.
func (m *model) traits(ctx context.Context, b *Box, tx bun.IDB) (catalog.Traits, error) {
	if t := m.asked.Load(); t != nil && time.Since(t.at) < traitsFor {
		return t.Traits, nil
	}
	traits, err := b.catalog.Traits(ctx, tx, string(m.table.SQLName))
	if err == nil {
		m.asked.Store(&askedTraits{traits, time.Now()})
	}
	return traits, err
}

type askedTraits struct {
	catalog.Traits

	at time.Time
}
