package operate

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// term is a condition whose column is known and whose values have its type.
type term struct {
	column schema.QueryAppender
	lookup string
	values []any
	isNull bool
}

func (c condition) on(table *schema.Table) (term, error) {
	field, err := fieldOf(table, c.column)
	if err != nil {
		return term{}, err
	}
	t := term{column: bun.SafeQuery("?.?", table.SQLAlias, field.SQLName), lookup: c.lookup}
	values := []json.RawMessage{c.value}
	switch c.lookup {
	case "isnull":
		if err := json.Unmarshal(c.value, &t.isNull); err != nil {
			return term{}, errors.New("isnull: want true or false")
		}
		return t, nil
	case "in", "range":
		values = nil // or json would write the first value over the filter's own
		if err := json.Unmarshal(c.value, &values); err != nil || values == nil {
			return term{}, fmt.Errorf("%s: want a list", c.lookup)
		}
		if c.lookup == "range" && len(values) != 2 {
			return term{}, fmt.Errorf("range: want a list of two, got %d", len(values))
		}
	case "contains", "startswith":
		if c.value[0] != '"' {
			return term{}, fmt.Errorf("%s: want a string", c.lookup)
		}
		if field.IndirectType.Kind() != reflect.String {
			return term{}, fmt.Errorf("%s: the column holds no text", c.lookup)
		}
	case "exact", "ne":
		if bytes.Equal(c.value, []byte("null")) {
			t.isNull, t.lookup = c.lookup == "exact", "isnull"
			return t, nil
		}
	}
	for _, raw := range values {
		value, err := valueOf(field, raw)
		if err != nil {
			return term{}, fmt.Errorf("%s: %w", c.lookup, err)
		}
		t.values = append(t.values, value)
	}
	return t, nil
}

func fieldOf(table *schema.Table, name string) (*schema.Field, error) {
	if name == "pk" && !table.HasField("pk") {
		if len(table.PKs) != 1 {
			return nil, fmt.Errorf("the primary key of %s has %d columns: name one",
				table.Name, len(table.PKs))
		}
		return table.PKs[0], nil
	}
	if table.HasField(name) {
		return table.Field(name)
	}
	var names []string
	for _, f := range table.Fields {
		names = append(names, f.Name)
	}
	return nil, fmt.Errorf("no such column, want one of %s", strings.Join(names, ", "))
}

// valueOf reads a JSON scalar as what a column of the field's type is compared with.
func valueOf(field *schema.Field, raw json.RawMessage) (any, error) {
	var text string
	isText := raw[0] == '"'
	if isText {
		if err := json.Unmarshal(raw, &text); err != nil {
			return nil, err
		}
		if strings.IndexByte(text, 0) >= 0 {
			return nil, errors.New("a string with a NUL character, which databases do not store")
		}
	} else {
		text = string(raw)
	}
	if raw[0] == '{' || raw[0] == '[' || text == "null" && !isText {
		return nil, fmt.Errorf("want a string, a number or a boolean, got %.20s", raw)
	}
	var value any
	var err error
	if field.IndirectType.Kind() == reflect.Array { // a uuid, which the column may spell otherwise
		parsed := reflect.New(field.IndirectType)
		if reads, is := parsed.Interface().(encoding.TextUnmarshaler); is {
			if err := reads.UnmarshalText([]byte(text)); err != nil {
				return nil, fmt.Errorf("%.40s is no value for column %s: %w", raw, field.Name, err)
			}
			return parsed.Elem().Interface(), nil
		}
	}
	switch kind := field.IndirectType.Kind(); {
	case field.IndirectType == reflect.TypeFor[time.Time]():
		value, err = envelope.ParseTime(text)
	case kind >= reflect.Int && kind <= reflect.Int64:
		value, err = strconv.ParseInt(text, 10, 64)
	case kind >= reflect.Uint && kind <= reflect.Uint64:
		value, err = strconv.ParseUint(text, 10, 64)
	case kind == reflect.Float32, kind == reflect.Float64:
		value, err = strconv.ParseFloat(text, 64)
	case kind == reflect.Bool:
		value, err = strconv.ParseBool(text)
	default:
		return text, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%.40s is no value for column %s (%s)", raw, field.Name,
			cmp.Or(field.UserSQLType, field.DiscoveredSQLType))
	}
	return value, nil
}

func (t term) narrow(q *bun.SelectQuery) *bun.SelectQuery {
	operators := map[string]string{"exact": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<",
		"lte": "<="}
	switch t.lookup {
	case "isnull":
		if t.isNull {
			return q.Where("? IS NULL", t.column)
		}
		return q.Where("? IS NOT NULL", t.column)
	case "in":
		if len(t.values) == 0 {
			return q.Where("1 = 0")
		}
		return q.Where("? IN (?)", t.column, bun.List(t.values))
	case "range":
		return q.Where("? BETWEEN ? AND ?", t.column, t.values[0], t.values[1])
	case "contains":
		return q.Where(position(q)+" > 0", t.column, t.values[0])
	case "startswith":
		return q.Where(position(q)+" = 1", t.column, t.values[0])
	default:
		return q.Where("? "+operators[t.lookup]+" ?", t.column, t.values[0])
	}
}

// position is where in a text another begins, from 1, with upper and lower case apart, as Django
// has it: LIKE would need escapes, and is of two minds about case.
func position(q *bun.SelectQuery) string {
	switch q.Dialect().Name() {
	case dialect.PG:
		return "strpos(?, ?)"
	case dialect.MySQL:
		return "instr(?, BINARY ?)"
	default:
		return "instr(?, ?)"
	}
}
