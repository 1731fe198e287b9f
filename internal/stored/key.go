package stored

import (
	"bytes"
	"encoding/json"
	"reflect"

	"github.com/uptrace/bun/schema"
)

// KeyJSON is the wire's form of a key that is known by its text, in the given columns.
func KeyJSON(columns []*schema.Field, key string) json.RawMessage {
	if len(columns) > 1 {
		return json.RawMessage(key)
	}
	if kind := keyKind(columns); kind >= reflect.Bool && kind <= reflect.Float64 &&
		json.Valid([]byte(key)) {
		return json.RawMessage(key)
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false) // as Python writes it
	_ = encoder.Encode(key)      // a string always can be
	return bytes.TrimSuffix(text.Bytes(), []byte("\n"))
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
