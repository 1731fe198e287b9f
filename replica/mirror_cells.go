package replica

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// cell is one column of one row: nil for NULL, the text of a JSON column, or a reflect.Value that
// bun writes as a value of the field. What bun makes of zero values in a model it does not make of
// these.
type cell struct {
	field *schema.Field
	value any
}

func (c cell) appendTo(b []byte, gen schema.QueryGen) []byte {
	if v, ok := c.value.(reflect.Value); ok {
		if t, isTime := timeIn(v); isTime && !c.field.IsPK &&
			gen.Dialect().Name() == dialect.SQLite &&
			strings.EqualFold(c.field.UserSQLType, "date") {
			// SQLite keeps what it gets, so it would keep a time
			return gen.Append(b, t.Format(time.DateOnly))
		}
		switch f, bits := floatIn(v); {
		case bits == 0:
		case gen.Dialect().Name() == dialect.MySQL && !math.IsNaN(f) && !math.IsInf(f, 0):
			return strconv.AppendFloat(b, f, 'e', -1, bits)
		case gen.Dialect().Name() == dialect.SQLite && math.IsInf(f, 1):
			return append(b, "9e999"...) // what bun writes is a text to it
		case gen.Dialect().Name() == dialect.SQLite && math.IsInf(f, -1):
			return append(b, "-9e999"...)
		}
		return c.field.Append(gen, b, v)
	}
	return gen.Append(b, c.value)
}

// floatIn is a number that a literal of bun's is not good for. MariaDB needs an exponent: a literal
// without one is a decimal of 65 digits at most there, whatever it says.
func floatIn(v reflect.Value) (f float64, bits int) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if _, writesItself := v.Interface().(driver.Valuer); !v.CanFloat() || writesItself {
		return 0, 0
	}
	return v.Float(), v.Type().Bits()
}

func timeIn(v reflect.Value) (t time.Time, isTime bool) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	t, isTime = v.Interface().(time.Time)
	return t, isTime && t.Hour() == 0 && t.Minute() == 0 && t.Second() == 0 && t.Nanosecond() == 0
}

// cells reads the columns that the message carries, the primary key first. instance lends its
// fields to decode into.
func (m *mirror) cells(
	instance reflect.Value, msg *envelope.Message, fields map[string]json.RawMessage,
) ([]cell, error) {
	cells := make([]cell, 0, len(m.table.Fields))
	for _, f := range slices.Concat(m.table.PKs, m.table.DataFields) {
		if compute, ok := m.fixed[f.Name]; ok {
			value, err := compute(Fields{msg, fields})
			if err != nil {
				return nil, fmt.Errorf("compute column %q: %w", f.Name, err)
			}
			cells = append(cells, fixedCell(f, value))
			continue
		}
		name := m.fieldName(f.Name)
		raw, ok := fields[name]
		if ok && !f.IsPK {
			raw = m.asSent(msg, name, raw)
		}
		switch {
		case f.IsPK && (!ok || isNull(raw, f.StructField.Type)):
			return nil, fmt.Errorf("field %q with the primary key is missing", name)
		case !ok:
			m.noteUnsent(f.Name, name)
			continue
		case f.IsPK:
			if err := m.decodeKeyPart(f, instance, raw); err != nil {
				return nil, &keyError{m.model, string(raw), err}
			}
		}
		value, err := m.shapes.column(f, f.Value(instance), raw)
		if err != nil {
			return nil, fmt.Errorf("field %q: %w", name, err)
		}
		cells = append(cells, cell{f, value})
	}
	return cells, nil
}

// fixedCell lets bun write a value as one of the field where it is one, and else by its own type.
func fixedCell(f *schema.Field, value any) cell {
	if v := reflect.ValueOf(value); v.IsValid() && v.Type() == f.StructField.Type {
		addressable := reflect.New(v.Type()).Elem()
		addressable.Set(v)
		return cell{f, addressable}
	}
	return cell{f, value}
}
