package operate

import (
	"encoding/json"
	"reflect"

	"github.com/uptrace/bun/schema"
)

// spellings are the hashes of a value: its own, and those of what a master may have whose database
// has another type for it.
func (c *columns) spellings(column string, row reflect.Value, value json.RawMessage) string {
	hashes := appendHash(nil, value)
	for _, alike := range alikeOf(c.shape.Table.FieldMap[column], row, value) {
		hashes = appendHash(hashes, alike)
	}
	if string(value) == "null" && c.shape.NaNAsNull {
		for _, token := range []string{"NaN", "Infinity", "-Infinity"} {
			hashes = appendHash(hashes, json.RawMessage(`"`+token+`"`))
		}
	}
	return string(hashes)
}

// alikeOf asks the type of a column for the values that are equal to the one that it holds.
func alikeOf(field *schema.Field, row reflect.Value, value json.RawMessage) []json.RawMessage {
	if field == nil || string(value) == "null" {
		return nil
	}
	held := reflect.Indirect(field.Value(row))
	if !held.IsValid() {
		return nil
	}
	if knows, ok := held.Interface().(interface{ Alike() []json.RawMessage }); ok {
		return knows.Alike()
	}
	return nil
}

// holds says that one of hashes, each hashLen long, is the hash.
func holds(hashes, hash string) bool {
	for ; len(hashes) >= hashLen; hashes = hashes[hashLen:] {
		if hashes[:hashLen] == hash {
			return true
		}
	}
	return false
}
