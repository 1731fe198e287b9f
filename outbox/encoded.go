package outbox

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/stored"
)

// EncodeRow writes a row of any bun table, as it was read, as instance_data has it: its columns
// under their SQL names. A replica's rows written so can be compared with what the master sends.
// nulls names the columns that are NULL in the database, which the Go value of a field that is no
// pointer does not say.
func EncodeRow(
	table *schema.Table, row reflect.Value, nulls map[string]bool,
) (json.RawMessage, error) {
	if nulls == nil {
		nulls = stored.Nulls{}
	}
	return encodeRow(table, table.Fields, record{Value: row, nulls: nulls}, nil)
}

// EncodeKey returns the primary key of a row that was read, as the wire has it, and as the text by
// which ledgers know it. It is never null: a zero is the key zero.
func EncodeKey(table *schema.Table, row reflect.Value) (pk json.RawMessage, key string, err error) {
	m := &model{table: table}
	pk, key, ok, err := m.keyOf(record{Value: row, nulls: stored.Nulls{}})
	if err == nil && !ok {
		err = fmt.Errorf("a row of %s without primary key", table.Name)
	}
	return pk, key, err
}

// KeyJSON is the wire's form of a primary key that is known by its text.
func KeyJSON(table *schema.Table, key string) json.RawMessage {
	if len(table.PKs) > 1 {
		return json.RawMessage(key)
	}
	if kind := keyKind(table); kind >= reflect.Bool && kind <= reflect.Float64 {
		return json.RawMessage(key)
	}
	text, _ := marshal(key) // a string always can be
	return text
}

// HasIntegerKeys says that a table's primary key, or its column id where it has none, is one integer.
func HasIntegerKeys(table *schema.Table) bool {
	kind := keyKind(table)
	return kind >= reflect.Int && kind <= reflect.Uint64
}

// keyKind is the kind of a primary key of one column.
func keyKind(table *schema.Table) reflect.Kind {
	field := table.FieldMap["id"]
	if len(table.PKs) > 0 {
		field = table.PKs[0]
	}
	if field == nil || len(table.PKs) > 1 {
		return reflect.Invalid
	}
	return field.IndirectType.Kind()
}
