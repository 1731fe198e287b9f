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
	"github.com/cqrsync/cqrsync/internal/stored"
)

// rowsOfPKs are rows with nothing but the given primary keys.
func (m *model) rowsOfPKs(
	ctx context.Context, db bun.IDB, pks []json.RawMessage,
) ([]reflect.Value, error) {
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
				"want a list of %d values, one per primary key column of %s",
				len(m.table.PKs), m.table.TypeName)}
		}
	}
	for i, field := range m.table.PKs {
		if err := decodeKeyPart(field, field.Value(row), parts[i]); err != nil {
			return row, &KeyError{m.id, string(pk), fmt.Errorf("column %s is a %s", field.Name,
				field.IndirectType)}
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
	case !isText && kind == reflect.String:
		// A number for a text column, as some other side's column has it.
		return json.Unmarshal(strconv.AppendQuote(nil, string(part)), into.Addr().Interface())
	case isText && kind >= reflect.Bool && kind <= reflect.Float64: // and the other way round
		return json.Unmarshal(wholeNumber(text), into.Addr().Interface())
	}
	return err
}

// wholeNumber is a number without zeros behind its point, which a column of decimals writes.
func wholeNumber(text string) []byte {
	if whole, zeros, has := strings.Cut(strings.TrimRight(text, " "), "."); has &&
		strings.Trim(zeros, "0") == "" {
		return []byte(whole)
	}
	return []byte(strings.TrimRight(text, " "))
}
