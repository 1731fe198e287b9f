package capture

import (
	"fmt"
	"strings"
)

// This file nests the rows of other tables in a message, as Go does for bun's relations.

// data is the row t as a message has it.
func (m Model) data() string {
	var members, odd []string
	for _, r := range m.Relations {
		name := literal(jsonName(r.Name) + ":")
		members = append(members, name+" || "+r.value(m.Key, Field.value))
		if condition := r.some(m.Key, Field.oddValue); condition != "" {
			odd = append(odd, "CASE WHEN "+condition+" THEN "+name+" || to_json("+
				r.value(m.Key, Field.bare)+")::text END")
		}
	}
	return object("t", m.Fields, members, odd)
}

// value are the relation's rows for the row t as JSON: a list, or one object.
func (r Relation) value(key []Column, value func(f Field, row string) string) string {
	var members, order []string
	for _, f := range r.Fields {
		members = append(members, literal(jsonName(f.Name)+":")+" || "+value(f, "x"))
	}
	for _, column := range r.Order {
		order = append(order, "x."+quote(column))
	}
	one := "'{' || " + strings.Join(members, " || ',' || ") + " || '}'"
	if !r.Many {
		return "coalesce((SELECT " + one + " FROM " + r.of(key) + "), 'null')"
	}
	return "'[' || coalesce((" +
		"SELECT string_agg(" + one + ", ',' ORDER BY " + strings.Join(order, ", ") + ") " +
		"FROM " + r.of(key) + "), '') || ']'"
}

// of are the relation's rows, x, for the row t.
func (r Relation) of(key []Column) string {
	var on []string
	for i, column := range r.Columns {
		on = append(on, fmt.Sprintf("x.%s = t.%s", quote(column), quote(key[i].Name)))
	}
	return r.quoted + " AS x WHERE " + strings.Join(on, " AND ")
}

// some is a condition: it holds for a field of one of the rows. Empty where it can for none.
func (r Relation) some(key []Column, condition func(f Field, row string) string) string {
	var any []string
	for _, f := range r.Fields {
		if text := condition(f, "x"); text != "" {
			any = append(any, text)
		}
	}
	if any == nil {
		return ""
	}
	return "EXISTS (SELECT FROM " + r.of(key) + " AND (" + strings.Join(any, " OR ") + "))"
}

// unsendable is a condition: no replica could read a value of the rows.
func (r Relation) unsendable(key []Column) string { return r.some(key, Field.unsendable) }

// oddValue is a condition: the value is NaN or an infinity, or has one in it, and travels as it is.
func (f Field) oddValue(row string) string {
	if f.Column.Kind != Float || f.Finite {
		return ""
	}
	return f.Column.odd(row)
}
