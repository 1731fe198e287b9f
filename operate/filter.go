package operate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/outbox"
)

// Filter selects instances. The zero value selects all.
type Filter struct{ conditions []condition }

type condition struct {
	column, lookup string
	value          json.RawMessage
}

// Lookups are what may follow a column's name after two underscores; exact is meant where none
// does.
var Lookups = []string{"exact", "ne", "in", "gt", "gte", "lt", "lte", "range", "isnull", "contains",
	"startswith"}

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
		return Filter{}, errors.New(
			`filter: want a JSON object such as {"status": "open"}, or {} for all`)
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

// IsZero says that the filter selects all.
func (f Filter) IsZero() bool { return len(f.conditions) == 0 }

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

// OnMaster checks the filter against a model of a master, all of it at once, and returns what
// narrows a query on its table: nil where every row is meant.
func (f Filter) OnMaster(
	box *outbox.Box, model string,
) (func(*bun.SelectQuery) *bun.SelectQuery, error) {
	table, err := boxed.Of(box).Model(model)
	if err != nil {
		return nil, err
	}
	fields, err := boxed.Of(box).Fields(model)
	if err != nil {
		return nil, err
	}
	return f.named(fields).On(table)
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
