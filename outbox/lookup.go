package outbox

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
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
	paired, err := stored.Pair(m.table.PKs, asked, find, func(f found) reflect.Value { return f.row })
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
	key []*schema.Field, asked []reflect.Value, paired []*found, find func([]reflect.Value) ([]found, error),
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
		for _, record := range read.rows {
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
	return &KeyError{m.id, string(pk), fmt.Errorf("it may be the key %s in another spelling, and is not deleted; "+
		"send that one again (sync), repeat the diff when it has arrived, and if this one is still there, delete it by hand", own)}
}

// refuseRespelled goes through the keys of a table of texts and refuses those asked for that are
// some other text's number or time: 1.5000 in a replica's column of numbers may be the master's
// text 1.50.
func (b *Box) refuseRespelled(ctx context.Context, m *model, pks []json.RawMessage, respelled map[string]int) error {
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
		if err := query(b.db.NewSelect().Model(rows.Model())).ColumnExpr("?", keyColumns(m.table)).Scan(ctx, rows); err != nil {
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

// rowsOfPKs are rows with nothing but the given primary keys.
func (m *model) rowsOfPKs(ctx context.Context, db bun.IDB, pks []json.RawMessage) ([]reflect.Value, error) {
	kinds := m.kinds.Load()
	if kinds == nil {
		read, err := stored.Kinds(ctx, db, m.table, m.table.PKs)
		if err != nil {
			return nil, fmt.Errorf("outbox: %w", err)
		}
		kinds = &read
		m.kinds.Store(kinds)
	}
	rows := make([]reflect.Value, len(pks))
	for i, pk := range pks {
		var err error
		if rows[i], err = m.rowOfPK(pk); err != nil {
			return nil, err
		}
		for n, field := range m.table.PKs {
			if err := (*kinds)[n].Check(field, rows[i]); err != nil {
				return nil, &KeyError{m.id, string(pk), err}
			}
		}
	}
	return rows, nil
}

// marksOf reads primary keys as the wire has them, or as a replica spells them.
func (m *model) marksOf(ctx context.Context, db bun.IDB, pks []json.RawMessage) ([]*mark, error) {
	rows, err := m.rowsOfPKs(ctx, db, pks)
	if err != nil {
		return nil, err
	}
	if !m.exactKeys() {
		if rows, err = m.stored(ctx, db, rows); err != nil {
			return nil, err
		}
	}
	marks := make([]*mark, 0, len(rows))
	seen := make(map[string]bool, len(rows))
	for _, row := range rows {
		pk, key, ok, err := m.keyOf(record{Value: row, nulls: stored.Nulls{}})
		if err == nil && !ok {
			err = fmt.Errorf("key %s: %w", pk, errZeroKey)
		}
		if err != nil {
			return nil, err
		}
		if !seen[key] {
			seen[key] = true
			marks = append(marks, &mark{key: key, pk: pk, row: row})
		}
	}
	return marks, nil
}

// rowOfPK is a row with nothing but the primary key.
func (m *model) rowOfPK(pk json.RawMessage) (reflect.Value, error) {
	row := reflect.New(m.table.Type).Elem()
	parts := []json.RawMessage{pk}
	if len(m.table.PKs) > 1 {
		parts = nil // or json would write the first part over pk
		if err := json.Unmarshal(pk, &parts); err != nil || len(parts) != len(m.table.PKs) {
			return row, &KeyError{m.id, string(pk), fmt.Errorf(
				"want a list of %d values, one per primary key column of %s", len(m.table.PKs), m.table.TypeName)}
		}
	}
	for i, field := range m.table.PKs {
		if err := decodeKeyPart(field, field.Value(row), parts[i]); err != nil {
			return row, &KeyError{m.id, string(pk), fmt.Errorf("column %s is a %s", field.Name, field.IndirectType)}
		}
	}
	return row, nil
}

func decodeKeyPart(field *schema.Field, into reflect.Value, part json.RawMessage) error {
	var text string
	isText := json.Unmarshal(part, &text) == nil
	if at, isTime := into.Addr().Interface().(*time.Time); isTime && isText {
		t, err := envelope.ParseTime(text)
		*at = t
		return err
	}
	err := json.Unmarshal(part, into.Addr().Interface())
	if err == nil {
		return nil
	}
	if scanner, scans := into.Addr().Interface().(sql.Scanner); scans {
		if isText {
			return scanner.Scan(text)
		}
		return scanner.Scan([]byte(part))
	}
	switch kind := field.IndirectType.Kind(); {
	case !isText && kind == reflect.String: // a number for a text column, as some other side's column has it
		return json.Unmarshal(strconv.AppendQuote(nil, string(part)), into.Addr().Interface())
	case isText && kind >= reflect.Bool && kind <= reflect.Float64: // and the other way round
		return json.Unmarshal(wholeNumber(text), into.Addr().Interface())
	}
	return err
}

// wholeNumber is a number without zeros behind its point, which a column of decimals writes.
func wholeNumber(text string) []byte {
	if whole, zeros, has := strings.Cut(strings.TrimRight(text, " "), "."); has && strings.Trim(zeros, "0") == "" {
		return []byte(whole)
	}
	return []byte(strings.TrimRight(text, " "))
}
