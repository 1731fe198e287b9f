package replica

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/catalog"
)

// Python writes NaN and the infinities bare, and JSON has no word for them. A column of floats
// holds them where its database does; what cannot hold them is refused, or NULL by NaNAsNull.

// NaNAsNull stores NULL in place of NaN and the infinities, for a table whose columns do not hold
// them (MariaDB's). A diff takes such a NULL for what the master has. Of lists that have some among
// others it does nothing: let the master send null (outbox.NaNAsNull).
func NaNAsNull() Option {
	return func(b *binding) { b.finite = true }
}

const nanFix = "store NULL for them (replica.NaNAsNull, nan_as_null in cqrsync.yaml), or let the " +
	"master send null (outbox.NaNAsNull, nan_as_null there)"

// asSent is a field as the master sent it: raw, or what has a bare NaN or infinity within it.
func (b *binding) asSent(m *envelope.Message, name string, raw json.RawMessage) json.RawMessage {
	text, odd := m.NonFinite[name]
	switch {
	case !odd:
		return raw
	case b.finite && envelope.IsNonFinite(text):
		return json.RawMessage("null")
	default:
		return text
	}
}

// readable makes JSON of a field that is to be decoded into typ: numbers in strings where the type
// can hold what the master has, else null.
func readable(raw json.RawMessage, typ reflect.Type) json.RawMessage {
	if len(raw) == 0 || raw[0] != '[' && raw[0] != '{' {
		return raw
	}
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	if kind := typ.Kind(); kind == reflect.Map || kind == reflect.Interface ||
		typ == reflect.TypeFor[json.RawMessage]() {
		return envelope.Finite(raw)
	}
	return envelope.Quoted(raw)
}

// checkJSON refuses what no JSON column can say.
func checkJSON(raw json.RawMessage) error {
	if !envelope.HasNonFinite(raw) {
		return nil
	}
	return errors.New("it has NaN or an infinity within it, which a column of JSON does not hold: " +
		"let the master send null (outbox.NaNAsNull, nan_as_null in its cqrsync.yaml)")
}

// holdsNonFinite says that a type has values for NaN and the infinities.
func holdsNonFinite(typ reflect.Type) bool {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	return typ.Kind() == reflect.Float64 || typ.Kind() == reflect.Float32 ||
		typ.Implements(reflect.TypeFor[interface{ HoldsNonFinite() }]())
}

// finite refuses NaN and the infinities in a column of numbers that does not hold them.
func finite(c catalog.Column) limit {
	return func(value string) error {
		text, quoted, ok := plain(value)
		if !ok || !quoted {
			return nil
		}
		switch strings.ToLower(text) {
		case "nan", "infinity", "-infinity":
			return fmt.Errorf("%s holds neither NaN nor an infinity: %s", c.Type, nanFix)
		}
		return nil
	}
}
