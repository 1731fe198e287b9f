package outbox

import (
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/uptrace/bun/schema"
)

// EncodeRow writes a row of any bun table as instance_data has it: its columns under their SQL names. A replica's rows
// written so can be compared with what the master sends.
func EncodeRow(table *schema.Table, row reflect.Value) (json.RawMessage, error) {
	return encodeRow(table, table.Fields, row, nil)
}

// EncodeKey returns the primary key of a row as the wire has it, and as the text by which ledgers know it.
func EncodeKey(table *schema.Table, row reflect.Value) (pk json.RawMessage, key string, err error) {
	m := &model{table: table}
	pk, key, ok, err := m.keyOf(row)
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
	field := table.FieldMap["id"]
	if len(table.PKs) == 1 {
		field = table.PKs[0]
	}
	if field != nil {
		if kind := field.IndirectType.Kind(); kind >= reflect.Bool && kind <= reflect.Uint64 {
			return json.RawMessage(key)
		}
	}
	text, _ := marshal(key) // a string always can be
	return text
}
