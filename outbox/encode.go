package outbox

import (
	"bytes"
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// encode writes a row as the object that instance_data carries. NaN and the infinities are bare, as
// Python writes them.
func (m *model) encode(row record, relations []string) (json.RawMessage, error) {
	object, err := encodeRow(m.table, m.columns, m.names, row, relations)
	if m.finite {
		object = envelope.Finite(object)
	}
	return object, err
}

// encodeRow writes a row as an object: the columns under their SQL names, or those that names has
// for them, then the named relations under theirs.
func encodeRow(
	table *schema.Table, columns []*schema.Field, names map[string]string, row record,
	relations []string,
) (json.RawMessage, error) {
	b := []byte{'{'}
	var err error
	for _, field := range columns {
		name := field.Name
		if other, renamed := names[name]; renamed {
			name = other
		}
		b = appendName(b, name)
		if b, err = appendField(b, field, row); err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", field.Name, table.Name, err)
		}
	}
	groups := groupRelations(relations)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		value, err := encodeRelation(table.Relations[name], row, groups[name])
		if err != nil {
			return nil, fmt.Errorf("relation %s of %s: %w", name, table.Name, err)
		}
		b = append(appendName(b, table.Relations[name].Field.Name), value...)
	}
	return append(b, '}'), nil
}

// appendName begins the next member of the object that b ends with.
func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b, _ = appendText(b, name) // a table whose column has another name cannot be made
	return append(b, ':')
}

// appendText writes a text as marshal does. Most texts need no escape, and marshal costs several
// allocations.
func appendText(b []byte, text string) ([]byte, error) {
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			if err := checkText(text); err != nil {
				return b, err
			}
			quoted, err := marshal(text)
			return append(b, quoted...), err
		}
	}
	b = append(b, '"')
	b = append(b, text...)
	return append(b, '"'), nil
}

// groupRelations makes one level of a tree of the paths: "Lines", "Lines.Product" is Lines →
// [Product].
func groupRelations(paths []string) map[string][]string {
	groups := map[string][]string{}
	for _, path := range paths {
		head, rest, nested := strings.Cut(path, ".")
		below := groups[head]
		if nested {
			below = append(below, rest)
		}
		groups[head] = below
	}
	return groups
}

func encodeRelation(
	relation *schema.Relation, row record, nested []string,
) (json.RawMessage, error) {
	value := reflect.Indirect(relation.Field.Value(row.Value))
	table := relation.JoinTable
	switch {
	case !value.IsValid():
		return json.RawMessage("null"), nil
	case value.Kind() != reflect.Slice:
		return encodeRow(table, nestedFields(table), nil, row.below.of(table, value), nested)
	}
	fields := nestedFields(table)
	parts := make([][]byte, value.Len())
	for i := range parts {
		var err error
		element := row.below.of(table, reflect.Indirect(value.Index(i)))
		if parts[i], err = encodeRow(table, fields, nil, element, nested); err != nil {
			return nil, err
		}
	}
	return jsonArray(parts), nil
}

// nestedFields are what is sent of a nested row. Of a manifest's, some columns are read only to
// know whose the row is.
func nestedFields(table *schema.Table) []*schema.Field {
	return keepFields(table.Fields, func(f *schema.Field) bool {
		return f.StructField.Tag.Get(nestedTag) != unsentColumn
	})
}

// The tag of a manifest's structs: unsentColumn on a column of a nested row that is not sent, and
// "order:" with columns on a list of such rows.
const (
	nestedTag    = "outbox"
	unsentColumn = "-"
	orderedBy    = "order:"
)

func jsonArray(parts [][]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
}

var null = []byte("null")

// encodeField writes the value of one column in the wire's form (wire.md, "Written by us").
func encodeField(field *schema.Field, row record) ([]byte, error) {
	return appendField(nil, field, row)
}

func appendField(b []byte, field *schema.Field, row record) ([]byte, error) {
	isNull := row.nulls[field.Name]
	if row.nulls == nil { // bun writes the row so, and nobody has read it
		isNull = field.NullZero && field.HasZeroValue(row.Value)
	}
	if isNull {
		return append(b, null...), nil
	}
	value := field.Value(row.Value)
	if value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return append(b, null...), nil
		}
		value = value.Elem()
	}
	if value.Type().PkgPath() == "" { // a type of Go itself, without methods
		switch value.Kind() {
		case reflect.String:
			return appendText(b, value.String())
		case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
			return strconv.AppendInt(b, value.Int(), 10), nil
		case reflect.Bool:
			return strconv.AppendBool(b, value.Bool()), nil
		}
	}
	held := value.Interface()
	if t, is := held.(bun.NullTime); is && row.nulls != nil {
		held = t.Time // the year 1, which bun takes for NULL, and the column does not
	}
	text, err := encodeValue(held, isDate(field))
	return append(b, text...), err
}

func isDate(field *schema.Field) bool { return strings.EqualFold(field.UserSQLType, "date") }

func encodeValue(value any, date bool) ([]byte, error) {
	switch v := value.(type) {
	case time.Time:
		return encodeTime(v, date)
	case string:
		return appendText(nil, v)
	case bun.NullTime:
		if v.IsZero() {
			return null, nil // as its column is
		}
		return encodeValue(v.Time, date)
	case interface{ WireJSON() ([]byte, error) }:
		return v.WireJSON() // it has what JSON cannot say
	case json.Marshaler, encoding.TextMarshaler:
		// Types that know their JSON (UUIDs, decimals, raw JSON) keep it.
	case driver.Valuer:
		// sql.NullString and its kind: what the column holds, not the Go struct around it.
		inner, err := v.Value()
		if err != nil {
			return nil, err
		}
		if _, again := inner.(driver.Valuer); !again {
			return encodeValue(inner, date)
		}
	}
	if err := checkMoment(value); err != nil {
		return nil, err
	}
	if v := reflect.ValueOf(value); v.Kind() == reflect.String && !knowsItsText(v.Type()) {
		return appendText(nil, v.String())
	}
	text, err := marshal(value)
	if errors.As(err, new(*json.UnsupportedValueError)) {
		return encodeNonFinite(reflect.ValueOf(value), date)
	}
	if _, isJSON := value.(json.RawMessage); err == nil && !isJSON {
		err = checkString(text)
	}
	return text, err
}

func encodeTime(t time.Time, date bool) ([]byte, error) {
	if date { // has no zone, and so no other year in UTC
		t = time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
	}
	if err := checkTime(t); err != nil {
		return nil, err
	}
	if date {
		return json.Marshal(t.Format(time.DateOnly))
	}
	return json.Marshal(envelope.FormatTime(t))
}

// unsendable returns the first type within typ that no value of has a JSON form, nil if there is
// none.
func unsendable(typ reflect.Type, above map[reflect.Type]bool) reflect.Type {
	if above[typ] {
		return nil
	}
	above[typ] = true
	for _, form := range []reflect.Type{
		reflect.TypeFor[json.Marshaler](), reflect.TypeFor[encoding.TextMarshaler](),
		reflect.TypeFor[driver.Valuer](),
	} {
		if reflect.PointerTo(typ).Implements(form) {
			return nil
		}
	}
	switch typ.Kind() {
	case reflect.Chan, reflect.Func, reflect.Complex64, reflect.Complex128, reflect.UnsafePointer:
		return typ
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return unsendable(typ.Elem(), above)
	case reflect.Struct:
		for _, field := range reflect.VisibleFields(typ) {
			if !field.IsExported() || field.Tag.Get("json") == "-" {
				continue
			}
			if found := unsendable(field.Type, above); found != nil {
				return found
			}
		}
	}
	return nil
}

// marshal is json.Marshal without the escapes for HTML: compact, and as Python writes it.
func marshal(value any) (json.RawMessage, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	text := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	return text, checkMarshalled(value, text)
}
