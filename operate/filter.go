package operate

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// Filter selects instances. The zero value selects all.
type Filter struct{ conditions []condition }

type condition struct {
	column, lookup string
	value          json.RawMessage
}

// Lookups are what may follow a column's name after two underscores; exact is meant where none
// does.
var Lookups = []string{"exact", "ne", "in", "gt", "gte", "lt", "lte", "range", "isnull", "contains", "startswith"}

// ParseFilter reads a filter as django-cqrs's commands take it: a JSON object whose members must
// all hold, for example
//
//	{"id__in": [1, 2], "status": "open", "created__gte": "2026-11-01"}
//
// {} selects all. "pk" is the primary key, whatever its column is called. Nothing of the text
// becomes SQL: names are looked up among the model's columns, values are bound.
func ParseFilter(text string) (Filter, error) {
	d := json.NewDecoder(strings.NewReader(text))
	if token, err := d.Token(); err != nil || token != json.Delim('{') {
		return Filter{}, errors.New(`filter: want a JSON object such as {"status": "open"}, or {} for all`)
	}
	var f Filter
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return Filter{}, fmt.Errorf("filter: not JSON: %w", early(err))
		}
		c := condition{column: fmt.Sprint(name), lookup: "exact"}
		if err := d.Decode(&c.value); err != nil {
			return Filter{}, fmt.Errorf("filter: %q: not JSON: %w", c.column, early(err))
		}
		if at := strings.LastIndex(c.column, "__"); at > 0 {
			c.column, c.lookup = c.column[:at], c.column[at+2:]
		}
		if !slices.Contains(Lookups, c.lookup) {
			return Filter{}, fmt.Errorf("filter: %q: unknown look-up %q, want one of %s",
				c.column, c.lookup, strings.Join(Lookups, ", "))
		}
		f.conditions = append(f.conditions, c)
	}
	if _, err := d.Token(); err != nil {
		return Filter{}, fmt.Errorf("filter: not JSON: %w", early(err))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Filter{}, errors.New("filter: there is something after the JSON object")
	}
	return f, nil
}

// early says what it means that a text is over: EOF means nothing to an operator.
func early(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("it ends too early")
	}
	return err
}

// On checks the filter against the columns of a table, all of it at once, and returns what narrows
// a query on it: nil where every row is meant.
func (f Filter) On(table *schema.Table) (func(*bun.SelectQuery) *bun.SelectQuery, error) {
	if len(f.conditions) == 0 {
		return nil, nil
	}
	terms := make([]term, len(f.conditions))
	var errs []error
	for i, c := range f.conditions {
		var err error
		if terms[i], err = c.on(table); err != nil {
			errs = append(errs, fmt.Errorf("filter: %q: %w", c.column, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return func(q *bun.SelectQuery) *bun.SelectQuery {
		for _, t := range terms {
			q = t.narrow(q)
		}
		return q
	}, nil
}

// named is the filter with the names of columns in place of those that messages have for them. A
// name that is no field's is a column's: a master can select by columns that it does not send, and
// by publisher_id as by publisher.
func (f Filter) named(fields map[string]string) Filter {
	conditions := slices.Clone(f.conditions)
	for i, c := range conditions {
		for column, field := range fields {
			if field == c.column {
				conditions[i].column = column
			}
		}
	}
	return Filter{conditions}
}

// onReplica is On for the table of a replica, which may have fewer columns, and other names for
// them.
func (f Filter) onReplica(shape mirrored.Shape) (func(*bun.SelectQuery) *bun.SelectQuery, error) {
	if len(f.conditions) > 0 && !shape.Mirrored {
		return nil, errors.New("filter: the replica hands this model to a handler and has no " +
			"rows to select: want {}")
	}
	var own Filter
	var errs []error
	for _, c := range f.conditions {
		name := c.column
		if name == "pk" && shape.Fields["pk"] != "pk" && len(shape.Key) == 1 {
			c.column = shape.Key[0].Name
		}
		for column, field := range shape.Fields {
			if field == name {
				c.column = column
			}
		}
		if name != "pk" && shape.Fields[c.column] != name {
			errs = append(errs, fmt.Errorf("filter: %q: the replica does not keep this field, so "+
				"it cannot select its rows by it", name))
		}
		own.conditions = append(own.conditions, c)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return own.On(shape.Table)
}

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
	operators := map[string]string{"exact": "=", "ne": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
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
