package stored

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
)

// IsUUID says that a Go type holds the 16 bytes of a uuid and reads its text, as uuid.UUID does.
func IsUUID(typ reflect.Type) bool {
	const size = 16
	return typ.Kind() == reflect.Array && typ.Len() == size && typ.Elem().Kind() == reflect.Uint8 &&
		typ.Implements(reflect.TypeFor[encoding.TextMarshaler]()) &&
		reflect.PointerTo(typ).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// KnowsItsColumn says that a uuid is spelled as its column has it (package column).
func KnowsItsColumn(typ reflect.Type) bool {
	return IsUUID(typ) && typ.Implements(reflect.TypeFor[interface{ Alike() []json.RawMessage }]())
}

// Misspells says that a uuid of the type is not written as its column has it, where that wants one
// type of package column.
func Misspells(typ reflect.Type, want string) bool {
	return want != "" && IsUUID(typ) && (!KnowsItsColumn(typ) || typ.Name() != want)
}

// UUIDText is the one spelling in JSON of a uuid that is to be read by typ; raw itself where it is
// none.
func UUIDText(typ reflect.Type, raw json.RawMessage) json.RawMessage {
	var text string
	if json.Unmarshal(raw, &text) != nil {
		return raw
	}
	value := reflect.New(typ)
	//nolint:forcetypeassert // see IsUUID
	if value.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(text)) != nil {
		return raw
	}
	//nolint:forcetypeassert // as above
	spelled, err := value.Elem().Interface().(encoding.TextMarshaler).MarshalText()
	if err != nil {
		return raw
	}
	return json.RawMessage(`"` + strings.ToLower(string(spelled)) + `"`)
}
