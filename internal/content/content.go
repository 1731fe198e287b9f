// Package content makes short hashes of the values of fields, which are the same on both sides
// where the values are, however a database writes them.
package content

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"reflect"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

const (
	// HashLen is how long a hash is.
	HashLen = 6
	// NoHash stands for a field that an instance has not.
	NoHash = "------"
)

// AppendHash writes 36 bits of a hash of the value, in which NaN is the string "NaN", as a decimal
// of Django's is. Two values that a replica's column may not tell apart have the same.
func AppendHash(line []byte, value json.RawMessage) []byte {
	h := fnv.New64a()
	_, _ = h.Write(envelope.AppendCanonical(nil, value)) // a hash never fails
	sum := binary.BigEndian.AppendUint64(nil, mix(h.Sum64()))
	return append(line, base64.RawURLEncoding.EncodeToString(sum)[:HashLen]...)
}

// mix spreads what the last bytes changed over all bits: of FNV-1a they reach the upper ones
// hardly.
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Spellings are the hashes of a value that stands in a field of a row: its own, and those of what a
// master may have whose database has another type for it. nanAsNull says that NULL stands for NaN
// and the infinities, too.
func Spellings(
	field *schema.Field, row reflect.Value, value json.RawMessage, nanAsNull bool,
) string {
	hashes := AppendHash(nil, value)
	for _, alike := range alikeOf(field, row, value) {
		hashes = AppendHash(hashes, alike)
	}
	if string(value) == "null" && nanAsNull {
		for _, token := range []string{"NaN", "Infinity", "-Infinity"} {
			hashes = AppendHash(hashes, json.RawMessage(`"`+token+`"`))
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

// Holds says that one of hashes, each HashLen long, is the hash.
func Holds(hashes, hash string) bool {
	for ; len(hashes) >= HashLen; hashes = hashes[HashLen:] {
		if hashes[:HashLen] == hash {
			return true
		}
	}
	return false
}
