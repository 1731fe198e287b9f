package replica

import (
	"database/sql/driver"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/uptrace/bun/schema"
)

// column is what the cell of a column holds.
func (s shapes) column(f *schema.Field, dst reflect.Value, raw json.RawMessage) (any, error) {
	if isNull(raw, dst.Type()) {
		return nil, nil
	}
	if !isJSONColumn(f) {
		return dst, s.decode(dst, readable(raw, dst.Type()))
	}
	if err := checkJSON(raw); err != nil {
		return nil, err
	}
	if kind := f.IndirectType.Kind(); kind != reflect.String &&
		elemType(f.IndirectType).Kind() != reflect.Uint8 {
		// Whoever reads the row unmarshals into this type: better to refuse here.
		if err := json.Unmarshal(raw, reflect.New(f.StructField.Type).Interface()); err != nil {
			return nil, err
		}
	}
	return string(raw), nil
}

// isJSONColumn says that the column holds JSON: it gets the text as the master sent it, nothing
// lost or reformatted.
func isJSONColumn(f *schema.Field) bool {
	typ := f.IndirectType
	if typ == reflect.TypeFor[json.RawMessage]() {
		return true
	}
	for _, other := range []string{"array", "hstore", "msgpack", "multirange"} {
		if f.Tag.HasOption(other) {
			return false
		}
	}
	isValuer := reflect.PointerTo(typ).Implements(reflect.TypeFor[driver.Valuer]())
	if isValuer || decodesItself(typ) || strings.HasSuffix(f.UserSQLType, "[]") {
		return false
	}
	switch typ.Kind() {
	case reflect.Map, reflect.Struct:
		return true
	case reflect.Slice, reflect.Array:
		return typ.Elem().Kind() != reflect.Uint8
	default:
		sqlType := strings.ToUpper(f.UserSQLType)
		return sqlType == "JSON" || sqlType == "JSONB"
	}
}
