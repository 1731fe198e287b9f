package outbox

import (
	"bytes"
	"database/sql/driver"
	"encoding"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// encodeRow writes a row as the object that instance_data carries: the columns under their SQL names, then the named
// relations under theirs.
func encodeRow(
	table *schema.Table, columns []*schema.Field, row reflect.Value, relations []string,
) (json.RawMessage, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, field := range columns {
		value, err := encodeField(field, row)
		if err != nil {
			return nil, fmt.Errorf("column %s of %s: %w", field.Name, table.Name, err)
		}
		if i > 0 {
			b.WriteByte(',')
		}
		writeMember(&b, field.Name, value)
	}
	groups := groupRelations(relations)
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		value, err := encodeRelation(table.Relations[name], row, groups[name])
		if err != nil {
			return nil, fmt.Errorf("relation %s of %s: %w", name, table.Name, err)
		}
		b.WriteByte(',')
		writeMember(&b, table.Relations[name].Field.Name, value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func writeMember(b *bytes.Buffer, name string, value []byte) {
	quoted, _ := json.Marshal(name) // a string always can be
	b.Write(quoted)
	b.WriteByte(':')
	b.Write(value)
}

// groupRelations makes one level of a tree of the paths: "Lines", "Lines.Product" is Lines → [Product].
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

func encodeRelation(relation *schema.Relation, row reflect.Value, nested []string) (json.RawMessage, error) {
	value := reflect.Indirect(relation.Field.Value(row))
	switch {
	case !value.IsValid():
		return json.RawMessage("null"), nil
	case value.Kind() != reflect.Slice:
		return encodeRow(relation.JoinTable, relation.JoinTable.Fields, value, nested)
	}
	parts := make([][]byte, value.Len())
	for i := range parts {
		var err error
		element := reflect.Indirect(value.Index(i))
		if parts[i], err = encodeRow(relation.JoinTable, relation.JoinTable.Fields, element, nested); err != nil {
			return nil, err
		}
	}
	return jsonArray(parts), nil
}

func jsonArray(parts [][]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]"))
}

var null = []byte("null")

// encodeField writes the value of one column in the wire's form (wire.md, "Written by us").
func encodeField(field *schema.Field, row reflect.Value) ([]byte, error) {
	if field.NullZero && field.HasZeroValue(row) {
		return null, nil // bun writes NULL for it too
	}
	value := field.Value(row)
	if value.Kind() == reflect.Pointer {
		if value.IsNil() {
			return null, nil
		}
		value = value.Elem()
	}
	return encodeValue(value.Interface(), isDate(field))
}

func isDate(field *schema.Field) bool { return strings.EqualFold(field.UserSQLType, "date") }

func encodeValue(value any, date bool) ([]byte, error) {
	switch v := value.(type) {
	case time.Time:
		if date {
			return json.Marshal(v.Format(time.DateOnly))
		}
		return json.Marshal(envelope.FormatTime(v))
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
	return marshal(value)
}

// marshal is json.Marshal without the escapes for HTML: compact, and as Python writes it.
func marshal(value any) (json.RawMessage, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
