package capture

import (
	"fmt"
	"strings"
)

// This file writes, in SQL, what the wire calls a value (docs/types.md): the same text as Go's
// encoding of the same row. The settings that change how PostgreSQL prints values are pinned by the
// function that runs it (postgres_flush.go).

// pinned are those settings.
var pinned = []string{
	`"DateStyle" = 'ISO'`, `"IntervalStyle" = 'postgres'`, `"TimeZone" = 'UTC'`,
	`extra_float_digits = 1`, `bytea_output = 'hex'`,
}

// jsonText is a text as a JSON string. Two characters are escaped that only Go escapes, so that the
// keys of Go and of SQL are equal byte by byte.
func jsonText(expr string) string {
	return "replace(replace(to_json(" + expr + ")::text, " +
		"chr(8232), chr(92) || 'u2028'), chr(8233), chr(92) || 'u2029')"
}

// plain is a column's value as JSON, where it is not NULL.
func (c Column) plain(row string) string {
	column := row + "." + quote(c.Name)
	if c.Array {
		return c.list(column)
	}
	switch c.Kind {
	case Integer:
		return column + "::text"
	case Bool:
		return "CASE WHEN " + column + " THEN 'true' ELSE 'false' END"
	case Float:
		return column + "::text"
	case Moment:
		return `'"' || to_char(` + column + `, 'YYYY-MM-DD HH24:MI:SS') || CASE WHEN to_char(` + column +
			`, 'US') = '000000' THEN '' ELSE '.' || to_char(` + column + `, 'US') END || '+00:00"'`
	case Date:
		return `'"' || ` + c.text(column) + ` || '"'`
	case JSON:
		return column + "::text"
	case Bytes:
		return `'"' || translate(encode(` + column + `, 'base64'), chr(10), '') || '"'`
	default:
		return jsonText(c.text(column))
	}
}

// text is what PostgreSQL prints for a value. A cast to text is another function for some types: it
// takes the spaces from a char(8), and puts a mask behind an inet.
func (c Column) text(column string) string {
	switch c.Kind {
	case PaddedText, Printed:
		return "format('%s', " + column + ")"
	case Date:
		return "to_char(" + column + ", 'YYYY-MM-DD')"
	case TextUUID, HexUUID:
		return "rtrim(" + column + "::text)::uuid::text"
	case BinaryUUID:
		return "encode(" + column + ", 'hex')::uuid::text"
	default:
		return column + "::text"
	}
}

// list is that of an array. One that does not begin at 1 says so in its text, which a list cannot.
func (c Column) list(column string) string {
	var list string
	switch c.Kind {
	case Integer, Bool, JSON:
		list = "to_json(" + column + ")::text"
	case Float:
		list = `replace(to_json(` + column + `::text[])::text, '"', '')`
	default:
		list = jsonText("format('%s', " + column + ")::text[]")
	}
	return "CASE WHEN coalesce(array_lower(" + column + ", 1), 1) = 1 THEN " + list + " ELSE " +
		jsonText(column+"::text") + " END"
}

// odd is a condition: the value is NaN or an infinity, or has one in it.
func (c Column) odd(row string) string {
	return "(" + row + "." + quote(c.Name) + "::text ~ '[NI]')"
}

// value is a field's value as JSON, with null for what JSON cannot say.
func (f Field) value(row string) string {
	plain := f.Column.plain(row)
	if f.Column.Kind == Float {
		none := "'null'"
		if f.Column.Array {
			none = "regexp_replace(" + plain + ", '-?(NaN|Infinity)', 'null', 'g')"
		}
		plain = "CASE WHEN " + f.Column.odd(row) + " THEN " + none + " ELSE " + plain + " END"
	}
	return f.orNull(row, plain)
}

// bare is a field's value with NaN and the infinities as Python has them, which is no JSON.
func (f Field) bare(row string) string { return f.orNull(row, f.Column.plain(row)) }

func (f Field) orNull(row, value string) string {
	if !f.Column.Null {
		return value
	}
	column := row + "." + quote(f.Column.Name)
	return "CASE WHEN " + column + " IS NULL THEN 'null' ELSE " + value + " END"
}

// unsendable is a condition: no replica could read the value. Empty where there is no such value.
func (f Field) unsendable(row string) string {
	if f.Column.Array || f.Column.Kind != Moment && f.Column.Kind != Date {
		return ""
	}
	column := row + "." + quote(f.Column.Name)
	return "(" + column + " < '0001-01-01' OR " + column + " >= '10000-01-01')"
}

// object is a row as a JSON object: the fields, then members that are written already. odd are
// those of them that have what JSON cannot say, or NULL.
func object(row string, fields []Field, more, odd []string) string {
	var members []string
	for _, f := range fields {
		name := jsonName(f.Name)
		members = append(members, literal(name+":")+" || "+f.value(row))
		if f.Column.Kind == Float && !f.Finite {
			odd = append(odd, "CASE WHEN "+f.Column.odd(row)+" THEN "+literal(name+":")+" || to_json("+
				f.Column.plain(row)+")::text END")
		}
	}
	members = append(members, more...)
	all := strings.Join(members, " || ',' || ")
	head := "'{'"
	if len(odd) > 0 { // as envelope.Shelve keeps them
		head = `'{' || coalesce('"cqrs_nonfinite":{' || ` +
			`nullif(concat_ws(',', ` + strings.Join(odd, ", ") + `), '') || '},', '')`
	}
	return asKnown(row, fields, head+" || "+all+" || '}'")
}

// asKnown is an expression that PostgreSQL takes only while the columns are of the kinds for
// which it was written: a column that becomes a text would else be sent as the number that it
// was. The types are checked when PostgreSQL plans the statement, anew after each ALTER
// TABLE, and nothing of it is evaluated.
func asKnown(row string, fields []Field, expr string) string {
	var kinds []string
	for _, f := range fields {
		if kind := f.Column.ofKind(row); kind != "" {
			kinds = append(kinds, kind+" IS NULL")
		}
	}
	if len(kinds) == 0 {
		return expr
	}
	return "CASE WHEN false AND (" + strings.Join(kinds, " OR ") + ") THEN NULL ELSE " + expr + " END"
}

// ofKind is an expression in which only a column of the kind can stand; empty where any can.
func (c Column) ofKind(row string) string {
	column := row + "." + quote(c.Name)
	if c.Array {
		return "array_lower(" + column + ", 1)"
	}
	switch c.Kind {
	case Integer:
		return "(" + column + " | 0)"
	case Bool:
		return "(" + column + " AND true)"
	case Float:
		return "(+ " + column + ")"
	case Moment:
		return "date_trunc('day', " + column + ")"
	case Date:
		return "((" + column + " - date '2000-01-01') | 0)"
	case JSON:
		return "(" + column + " #> '{}')"
	case Bytes, BinaryUUID:
		return "get_byte(" + column + ", 0)"
	case Decimal:
		return "scale(" + column + ")"
	case UUID:
		return "uuid_send(" + column + ")"
	case Text, PaddedText, TextUUID, HexUUID:
		return "(" + column + " ~~ '')"
	default:
		return ""
	}
}

func jsonName(name string) string { return `"` + name + `"` } // names are letters, digits and _

// keyText is the key of a row as text, as Go writes it.
func keyText(key []Column, row string) string {
	if len(key) == 1 {
		return key[0].keyPart(row)
	}
	parts := make([]string, len(key))
	for i, c := range key {
		parts[i] = c.keyJSON(row)
	}
	return "'[' || " + strings.Join(parts, " || ',' || ") + " || ']'"
}

// keyPart is the text of one column. A uuid that its column spells in another way than cqrsync
// would is refused when it is written: nobody who has the uuid would find the row by its index.
func (c Column) keyPart(row string) string {
	column := row + "." + quote(c.Name)
	text := c.text(column)
	if c.Kind != TextUUID && c.Kind != HexUUID {
		return text
	}
	wrong := literal("column " + c.Name +
		", want a uuid in lower case as its column spells them, not ")
	return "CASE WHEN rtrim(" + column + "::text) = " + c.spelled(text) + " THEN " + text +
		" ELSE (" + wrong + " || " + column + "::text)::uuid::text END"
}

// keyJSON is a part of a key of several columns.
func (c Column) keyJSON(row string) string {
	if c.Kind == TextUUID || c.Kind == HexUUID {
		return jsonText(c.keyPart(row))
	}
	return c.plain(row)
}

// spelled is the text of a key as the column keeps it.
func (c Column) spelled(text string) string {
	switch c.Kind {
	case HexUUID:
		return "replace(" + text + ", '-', '')"
	case BinaryUUID:
		return "decode(replace(" + text + ", '-', ''), 'hex')"
	}
	return text
}

// keyOf is a condition: row t has the key in a text. The first part of it finds the row by its
// index, in the key's own type; the last one tells spellings apart that the type takes for equal.
func keyOf(key []Column, text string) string {
	var on []string
	for i, c := range key {
		value := text
		if len(key) > 1 {
			value = fmt.Sprintf("(%s::json ->> %d)", text, i)
		}
		on = append(on, fmt.Sprintf("t.%s = %s::%s", quote(c.Name), c.spelled(value), c.castType()))
	}
	return strings.Join(append(on, keyText(key, "t")+` COLLATE "C" = `+text), " AND ")
}

func (c Column) castType() string {
	switch c.Kind {
	case TextUUID, HexUUID:
		if c.Padded {
			return "bpchar"
		}
		return `text COLLATE "default"`
	case BinaryUUID:
		return "bytea"
	case Date:
		return "date"
	case Decimal:
		return "numeric"
	case Integer:
		return "bigint"
	case PaddedText:
		return "bpchar"
	case UUID:
		return "uuid"
	default:
		return `text COLLATE "default"`
	}
}

// keyJSON is a key as JSON, made of its text.
func keyJSON(key []Column, text string) string {
	if len(key) > 1 || key[0].Kind == Integer {
		return text
	}
	return jsonText(text)
}
