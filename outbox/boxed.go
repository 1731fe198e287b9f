package outbox

import (
	"encoding/json"
	"errors"
	"reflect"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/stored"
)

func init() {
	//nolint:forcetypeassert // it says so
	boxed.Of = func(box any) boxed.Box { return operated{box.(*Box)} }
	boxed.Rows = wireRows{}
	boxed.Where = func(condition string) any { return whose(condition) }
}

// operated is a box as package operate sees it (internal/boxed).
type operated struct{ *Box }

// Model returns the bun table of a registered model.
func (b operated) Model(model string) (*schema.Table, error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return nil, err
	}
	return m.table, nil
}

// wireRows writes rows for package operate.
type wireRows struct{}

// Encode writes a row as instance_data has it.
func (wireRows) Encode(
	table *schema.Table, row reflect.Value, nulls stored.Nulls,
) (json.RawMessage, error) {
	if nulls == nil {
		nulls = stored.Nulls{}
	}
	return encodeRow(table, table.Fields, nil, record{Value: row, nulls: nulls}, nil)
}

// Key writes the key of a row.
func (wireRows) Key(columns []*schema.Field, row reflect.Value) (json.RawMessage, string, error) {
	return keyRead(columns, row)
}

// keyRead is the key of a row that was read. It is never null: a zero is the key zero.
func keyRead(
	columns []*schema.Field, row reflect.Value,
) (pk json.RawMessage, key string, err error) {
	pk, key, ok, err := encodeKey(columns, record{Value: row, nulls: stored.Nulls{}})
	if err == nil && !ok {
		err = errors.New("a row without primary key")
	}
	return pk, key, err
}
