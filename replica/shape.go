package replica

import (
	"cmp"
	"database/sql"
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun/schema"
)

// shapes says for every struct type within a model which field an object's key goes to. Known at
// registration, so that a type that cannot be used is refused then and not by a message.
type shapes map[reflect.Type][]member

type member struct {
	name  string
	field *schema.Field
}

// add takes in typ and the struct types within it. A field is known by its column or, for a
// relation, by bun's name for it (Lines: lines); by its JSON name too, which is what the structs
// inside a JSON column go by.
func (s shapes) add(tables *schema.Tables, typ reflect.Type) {
	if _, known := s[typ]; known {
		return
	}
	names := make(map[string]*schema.Field)
	for _, f := range reflect.VisibleFields(typ) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && !f.Anonymous && name != "-" {
			names[cmp.Or(name, f.Name)] = &schema.Field{StructField: f, Index: f.Index}
		}
	}
	table := tables.Get(typ)
	for name, f := range table.FieldMap {
		names[name] = f
	}
	for _, relation := range table.Relations {
		names[relation.Field.Name] = relation.Field
	}
	members := make([]member, 0, len(names))
	for name, f := range names {
		members = append(members, member{name, f})
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.name, b.name) })
	s[typ] = members
	for _, m := range members {
		if inner := elemType(m.field.StructField.Type); inner.Kind() == reflect.Struct &&
			!decodesItself(inner) {
			s.add(tables, inner)
		}
	}
}

// isForeignKey says that a relation's key holds the key of the other row, as Django sends it, and
// not the row.
func (m member) isForeignKey(raw json.RawMessage) bool {
	return m.field.Tag.HasOption("rel") && raw[0] != '{' && raw[0] != '['
}

func elemType(typ reflect.Type) reflect.Type {
	for {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
			typ = typ.Elem()
		default:
			return typ
		}
	}
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	scanner         = reflect.TypeFor[sql.Scanner]()
)

func decodesItself(typ reflect.Type) bool {
	p := reflect.PointerTo(typ)
	return p.Implements(jsonUnmarshaler) || p.Implements(textUnmarshaler) || p.Implements(scanner)
}
