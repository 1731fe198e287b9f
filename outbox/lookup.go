package outbox

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// KeyError is returned for a primary key that no row of the model's table can have. It is never
// taken for a row that is not there.
type KeyError struct {
	Model, Key string
	Err        error
}

func (e *KeyError) Error() string {
	return fmt.Sprintf("key %s is none of model %q: %v; is the replica keyed by another column, "+
		"or by one of another type?", e.Key, e.Model, e.Err)
}

func (e *KeyError) Unwrap() error { return e.Err }

// Lookup returns the instances with the given primary keys, without Data.
func (b operated) Lookup(
	ctx context.Context, model string, pks []json.RawMessage,
) ([]boxed.Instance, error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return nil, err
	}
	asked, err := m.rowsOfPKs(ctx, b.db, pks)
	if err != nil {
		return nil, err
	}
	find := func(keys []reflect.Value) ([]found, error) { return b.find(ctx, m, keys) }
	paired, err := stored.Pair(m.table.PKs, asked, find, func(f found) reflect.Value {
		return f.row
	})
	if err != nil {
		return nil, err
	}
	if err := pairUnpadded(m.table.PKs, asked, paired, find); err != nil {
		return nil, err
	}
	all := make([]boxed.Instance, len(pks))
	respelled := map[string]int{}
	for i, f := range paired {
		spelling := stored.Spelling(m.table.PKs, asked[i])
		switch {
		case f == nil && stored.MayBeRespelled(*m.kinds.Load(), m.table.PKs, asked[i]):
			respelled[spelling] = i
		case f == nil:
		case spelling != stored.Spelling(m.table.PKs, f.row):
			return nil, m.sameAs(pks[i], f.row)
		default:
			all[i] = f.instance
		}
	}
	return all, b.refuseRespelled(ctx, m, pks, respelled)
}

// pairUnpadded asks once more for the keys without a row that a replica's column has padded.
func pairUnpadded(
	key []*schema.Field, asked []reflect.Value, paired []*found,
	find func([]reflect.Value) ([]found, error),
) error {
	var rows []reflect.Value
	var places []int
	for i, f := range paired {
		if row, is := stored.Unpadded(key, asked[i]); f == nil && is {
			rows, places = append(rows, row), append(places, i)
		}
	}
	again, err := stored.Pair(key, rows, find, func(f found) reflect.Value { return f.row })
	for n, f := range again {
		paired[places[n]] = f
	}
	return err
}

// found is a row that a key was asked for; the instance is zero where it is not sent.
type found struct {
	row      reflect.Value
	instance boxed.Instance
}

// find reads the rows that some keys mean. One that cannot be read, so that Filter cannot be asked,
// is found as if it were sent: it exists.
func (b *Box) find(ctx context.Context, m *model, keys []reflect.Value) (rows []found, err error) {
	with := func(keys []reflect.Value) func(*bun.SelectQuery) *bun.SelectQuery {
		tuples := make([]bun.TupleValues, len(keys))
		for i, key := range keys {
			tuples[i] = bun.Tuple(keyValues(m.table, key))
		}
		return func(q *bun.SelectQuery) *bun.SelectQuery {
			return q.Where("(?) IN (?)", keyColumns(m.table), bun.List(tuples))
		}
	}
	err = inHalves(keys, func(keys []reflect.Value) error {
		read, err := b.page(ctx, m, false, with(keys))
		if err == nil && read.cut {
			err = errTooLarge
		}
		if err != nil {
			return err
		}
		sent := make(map[string]boxed.Instance, len(read.instances))
		for _, instance := range read.instances {
			sent[instance.Key] = instance
		}
		all := read.rows
		if m.condition != "" { // rows that it keeps from replicas are there all the same
			if all, _, err = m.selectRows(ctx, b.db, false, with(keys)); err != nil {
				return err
			}
		}
		for _, record := range all {
			_, key, _, err := m.keyOf(record)
			if err != nil {
				return err
			}
			rows = append(rows, found{record.Value, sent[key]})
		}
		return nil
	}, func(key reflect.Value, err error) error {
		if m.filter == nil {
			return err // there is nothing that the key alone would not tell
		}
		records, _, err := m.selectRows(ctx, b.db, false, with([]reflect.Value{key}))
		if err != nil {
			return err
		}
		for _, record := range records {
			pk, text, _, err := m.keyOf(record)
			if err != nil {
				return err
			}
			rows = append(rows, found{record.Value, boxed.Instance{PK: pk, Key: text}})
		}
		return nil
	})
	if err != nil {
		err = fmt.Errorf("outbox: read %s: %w", m.id, err)
	}
	return rows, err
}

// sameAs is the error of a key that a replica takes for another one of the master's, or the
// master's column does.
func (m *model) sameAs(pk json.RawMessage, row reflect.Value) error {
	own, _, err := keyRead(m.table.PKs, row)
	if err != nil {
		return err
	}
	return &KeyError{m.id, string(pk),
		fmt.Errorf("it may be the key %s in another spelling, and is not deleted; "+
			"send that one again (sync), repeat the diff when it has arrived, and if this one is "+
			"still there, delete it by hand", own)}
}

// refuseRespelled goes through the keys of a table of texts and refuses those asked for that are
// some other text's number or time: 1.5000 in a replica's column of numbers may be the master's
// text 1.50.
func (b *Box) refuseRespelled(
	ctx context.Context, m *model, pks []json.RawMessage, respelled map[string]int,
) error {
	if len(respelled) == 0 {
		return nil
	}
	for after := (reflect.Value{}); ; {
		query := func(q *bun.SelectQuery) *bun.SelectQuery {
			if after.IsValid() {
				q = q.Where("(?) > (?)", keyColumns(m.table), bun.List(keyValues(m.table, after)))
			}
			return q.OrderExpr("?", keyColumns(m.table)).Limit(diffed)
		}
		rows := stored.Of(m.table)
		if err := query(b.db.NewSelect().Model(rows.Model())).ColumnExpr("?",
			keyColumns(m.table)).Scan(ctx, rows); err != nil {
			return fmt.Errorf("outbox: read the keys of %s: %w", m.id, err)
		}
		for i := range rows.Len() {
			after = rows.Row(i)
			if at, is := respelled[stored.Spelling(m.table.PKs, after)]; is {
				return m.sameAs(pks[at], after)
			}
		}
		if rows.Len() < diffed {
			return nil
		}
	}
}

// diffed is how many keys are read at once where all are.
const diffed = 10_000
