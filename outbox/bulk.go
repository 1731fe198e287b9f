package outbox

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// bulkBatch is how many rows a bulk statement finds, locks and writes at once: memory stays
// bounded, and the number of round trips small.
const bulkBatch = 1000

// BulkUpdate updates the rows of T that where selects, and captures each. tx is the transaction of
// [Box.RunInTx].
//
//	n, err := outbox.BulkUpdate[Order](ctx, tx,
//		func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("due < ?", today) },
//		func(q *bun.UpdateQuery) *bun.UpdateQuery { return q.Set("status = 'late'") })
//
// Rows are found and locked by primary key in batches, so rows that come to match while it runs may
// be left out, as with any UPDATE. set must not change the primary key. It returns how many rows
// were updated.
func BulkUpdate[T any](
	ctx context.Context, tx bun.Tx,
	where func(bun.QueryBuilder) bun.QueryBuilder, set func(*bun.UpdateQuery) *bun.UpdateQuery,
) (int64, error) {
	return bulk(ctx, tx, where, func(rows *[]T) error {
		_, err := set(tx.NewUpdate().Model(rows).WherePK()).Exec(ctx)
		return err
	})
}

// BulkDelete deletes the rows of T that where selects, and captures each. It works like
// [BulkUpdate].
func BulkDelete[T any](
	ctx context.Context, tx bun.Tx, where func(bun.QueryBuilder) bun.QueryBuilder,
) (int64, error) {
	return bulk(ctx, tx, where, func(rows *[]T) error {
		_, err := tx.NewDelete().Model(rows).WherePK().Exec(ctx)
		return err
	})
}

func bulk[T any](
	ctx context.Context, tx bun.Tx, where func(bun.QueryBuilder) bun.QueryBuilder,
	write func(rows *[]T) error,
) (written int64, err error) {
	_, m, err := registered[T](tx)
	if err != nil {
		return 0, err
	}
	columns := keyColumns(m.table)
	var last []any
	for {
		var rows []T
		query := tx.NewSelect().Model(&rows).ColumnExpr("?", columns).ApplyQueryBuilder(where)
		if last != nil {
			query = query.Where("(?) > (?)", columns, bun.List(last))
		}
		if tx.Dialect().Name() != dialect.SQLite { // whose transactions exclude each other anyway
			query = query.For("UPDATE")
		}
		if err := query.OrderExpr("?", columns).Limit(bulkBatch).Scan(ctx); err != nil {
			return written, fmt.Errorf("outbox: find rows of %s: %w", m.table.Name, err)
		}
		if len(rows) == 0 {
			return written, nil
		}
		if err := write(&rows); err != nil {
			return written, fmt.Errorf("outbox: write %d rows of %s: %w", len(rows), m.table.Name,
				err)
		}
		written += int64(len(rows))
		last = keyValues(m.table, reflect.ValueOf(rows[len(rows)-1]))
	}
}

// Touch marks entities as changed although their own row was not: a row that belongs to them was.
// keys are primary keys: a scalar each, or for a composite key a []any in the order of the columns.
// tx is that of [Box.RunInTx].
func Touch[T any](_ context.Context, tx bun.Tx, keys ...any) error {
	s, m, err := registered[T](tx)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sealed {
		return m.lateReport()
	}
	s.named[m] = s.named[m] || len(keys) > 0
	for _, key := range keys {
		parts, composite := key.([]any)
		if !composite {
			parts = []any{key}
		}
		row, err := m.rowOfKey(parts)
		if err != nil {
			return fmt.Errorf("outbox: touch %s %v: %w", m.id, key, err)
		}
		if marked, err := s.mark(m, row, touched, nil); err != nil || !marked {
			return fmt.Errorf("outbox: touch %s %v: %w", m.id, key, errors.Join(err, errZeroKey))
		}
	}
	return nil
}

var errZeroKey = errors.New("the primary key is missing or zero")

func (m *model) rowOfKey(parts []any) (reflect.Value, error) {
	row := reflect.New(m.table.Type).Elem()
	if len(parts) != len(m.table.PKs) {
		return row, fmt.Errorf("the primary key has %d columns, %d values were given",
			len(m.table.PKs), len(parts))
	}
	for i, pk := range m.table.PKs {
		value, field := reflect.ValueOf(parts[i]), pk.Value(row)
		if field.Kind() == reflect.Pointer {
			field.Set(reflect.New(field.Type().Elem()))
			field = field.Elem()
		}
		if !value.IsValid() || !isAlike(value.Kind(), field.Kind()) ||
			!value.CanConvert(field.Type()) {
			return row, fmt.Errorf("column %s is a %s, not a %T", pk.Name, field.Type(), parts[i])
		}
		converted := value.Convert(field.Type())
		if !isSame(value, converted) {
			return row, fmt.Errorf("column %s is a %s, which does not hold the %T: "+
				"pass the key as the model has it", pk.Name, field.Type(), parts[i])
		}
		field.Set(converted)
	}
	return row, nil
}

// isAlike says that Go converts one kind into the other by value: not a number into a text with
// that character.
func isAlike(from, to reflect.Kind) bool {
	isNumber := func(k reflect.Kind) bool { return k >= reflect.Int && k <= reflect.Float64 }
	return from == to || isNumber(from) && isNumber(to)
}

// isSame says that a conversion lost nothing: it can be undone, and the sign is the same. Else
// another key would be touched. Beyond 2^53 not every integer has a float of its own, and what a
// conversion makes depends on the processor.
func isSame(value, converted reflect.Value) bool {
	if k := value.Kind(); k < reflect.Int || k > reflect.Float64 {
		return true
	}
	if value.CanFloat() != converted.CanFloat() {
		float := value
		if converted.CanFloat() {
			float = converted
		}
		if math.Abs(float.Float()) > 1<<53 {
			return false
		}
	}
	return value.Equal(converted.Convert(value.Type())) &&
		isNegative(value) == isNegative(converted)
}

func isNegative(v reflect.Value) bool {
	return v.CanInt() && v.Int() < 0 || v.CanFloat() && v.Float() < 0
}

// registered finds the session of a transaction and the registration of T in it.
func registered[T any](tx bun.Tx) (*session, *model, error) {
	if tx.Tx == nil {
		return nil, nil, errZeroTx
	}
	s := sessionOf(tx.NewSelect().DB())
	if s == nil {
		return nil, nil, errors.New("outbox: the transaction is not one of Box.RunInTx: pass the " +
			"tx it gives you")
	}
	m := s.box.modelOfType(reflect.TypeFor[T]())
	if m == nil {
		return nil, nil, fmt.Errorf("outbox: %s is not a registered model", reflect.TypeFor[T]())
	}
	return s, m, nil
}

// keyColumns is the primary key as a list of columns, qualified.
func keyColumns(table *schema.Table) schema.Safe {
	columns := make([]string, len(table.PKs))
	for i, pk := range table.PKs {
		columns[i] = string(table.SQLAlias) + "." + string(pk.SQLName)
	}
	return schema.Safe(strings.Join(columns, ", "))
}

func keyValues(table *schema.Table, row reflect.Value) []any {
	values := make([]any, len(table.PKs))
	for i, pk := range table.PKs {
		values[i] = pk.Value(row).Interface()
	}
	return values
}
