package outbox

import (
	"encoding/json"
	"errors"
	"reflect"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/stored"
)

// EncodeRow writes a row of any bun table, as it was read, as instance_data has it: its columns
// under their SQL names. A replica's rows written so can be compared with what the master sends.
// nulls names the columns that are NULL in the database, which the Go value of a field that is no
// pointer does not say. NaN and the infinities are bare, as Python writes them (see envelope.Quoted).
func EncodeRow(
	table *schema.Table, row reflect.Value, nulls map[string]bool,
) (json.RawMessage, error) {
	if nulls == nil {
		nulls = stored.Nulls{}
	}
	return encodeRow(table, table.Fields, nil, record{Value: row, nulls: nulls}, nil)
}

// EncodeKey returns the primary key of a row that was read, as the wire has it, and as the text by
// which ledgers know it. It is never null: a zero is the key zero.
func EncodeKey(table *schema.Table, row reflect.Value) (pk json.RawMessage, key string, err error) {
	return EncodeKeyIn(table.PKs, row)
}

// EncodeKeyIn is EncodeKey for a key that stands in the given columns.
func EncodeKeyIn(columns []*schema.Field, row reflect.Value) (pk json.RawMessage, key string, err error) {
	pk, key, ok, err := encodeKey(columns, record{Value: row, nulls: stored.Nulls{}})
	if err == nil && !ok {
		err = errors.New("a row without primary key")
	}
	return pk, key, err
}

// KeyJSON is the wire's form of a key that is known by its text, in the given columns.
func KeyJSON(columns []*schema.Field, key string) json.RawMessage {
	if len(columns) > 1 {
		return json.RawMessage(key)
	}
	if kind := keyKind(columns); kind >= reflect.Bool && kind <= reflect.Float64 && json.Valid([]byte(key)) {
		return json.RawMessage(key)
	}
	text, _ := marshal(key) // a string always can be
	return text
}

// HasIntegerKeys says that a key is one integer.
func HasIntegerKeys(columns []*schema.Field) bool {
	kind := keyKind(columns)
	return kind >= reflect.Int && kind <= reflect.Uint64
}

// keyKind is the kind of a primary key of one column.
func keyKind(columns []*schema.Field) reflect.Kind {
	if len(columns) != 1 {
		return reflect.Invalid
	}
	return columns[0].IndirectType.Kind()
}
