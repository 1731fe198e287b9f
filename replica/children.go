package replica

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// childTable is a has-many relation whose rows come as a list within the parent's message.
type childTable struct {
	*mirror
	relation *schema.Relation
	table    *schema.Table
	known
	joins map[*schema.Field]int // column of the child → position in the parent's primary key
}

// childRows is the list of one message.
type childRows struct {
	given bool // false: the message says nothing about the list
	rows  []*row
}

func newChildTable(e *engine, m *mirror, name string) (*childTable, error) {
	for goName, relation := range m.table.Relations {
		if goName != name && relation.Field.Name != name {
			continue
		}
		if relation.Type != schema.HasManyRelation || relation.PolymorphicField != nil {
			return nil, fmt.Errorf("Children(%q): want a has-many relation", name)
		}
		c := &childTable{mirror: m, relation: relation, table: relation.JoinTable,
			joins: map[*schema.Field]int{}}
		c.init(e, relation.JoinTable)
		for i, base := range relation.BasePKs {
			if i >= len(m.table.PKs) || m.table.PKs[i] != base {
				return nil, fmt.Errorf("Children(%q): want a relation that joins the whole "+
					"primary key, in its order", name)
			}
			c.joins[relation.JoinPKs[i]] = i
		}
		if len(c.joins) != len(m.table.PKs) {
			return nil, fmt.Errorf("Children(%q): want a relation that joins the whole primary key",
				name)
		}
		return c, checkColumns(c.table)
	}
	return nil, fmt.Errorf("Children(%q): the struct has no such relation", name)
}

// prepare reads the list of a message into its parent's row.
func (c *childTable) prepare(
	parent *row, msg *envelope.Message, fields map[string]json.RawMessage,
) error {
	name := c.fieldName(c.relation.Field.Name)
	raw, given := fields[name]
	list := childRows{given: given}
	if !given {
		c.noteUnsent(c.relation.Field.Name, name)
	}
	if given && string(raw) != "null" {
		var elems []map[string]json.RawMessage
		if err := json.Unmarshal(envelope.Quoted(c.asSent(msg, name, raw)), &elems); err != nil {
			return fmt.Errorf("field %q: want a list of objects: %w", name, err)
		}
		for i, elem := range elems {
			r, err := c.child(parent, elem)
			if err != nil {
				return fmt.Errorf("field %q: %d: %w", name, i, err)
			}
			list.rows = append(list.rows, r)
		}
	}
	parent.children = append(parent.children, list)
	return nil
}

// child is a row of the list; what joins it to its parent comes from there.
func (c *childTable) child(parent *row, elem map[string]json.RawMessage) (*row, error) {
	instance := reflect.New(c.table.Type).Elem()
	var cells []cell
	for _, f := range c.table.Fields {
		if i, ok := c.joins[f]; ok {
			cells = append(cells, cell{f, bun.Safe(parent.values[i])})
			continue
		}
		raw, ok := elem[f.Name]
		if !ok {
			name := c.relation.Field.Name + "." + f.Name
			c.noteUnsent(name, name)
			continue
		}
		value, err := c.shapes.column(f, f.Value(instance), raw)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", f.Name, err)
		}
		cells = append(cells, cell{f, value})
	}
	r := &row{columns: &columnSet{}, values: c.render(cells)}
	names := make([]string, len(cells))
	for i, cell := range cells {
		names[i] = string(cell.field.SQLName)
		r.columns.fields = append(r.columns.fields, cell.field)
	}
	r.columns.names = strings.Join(names, ", ")
	return r, nil
}

// clear deletes the children of rows.
func (c *childTable) clear(ctx context.Context, tx bun.Tx, parents []*row) error {
	return deleteWhere(ctx, tx, c.table, c.relation.JoinPKs, parents, c.known.shape.Load().folded,
		"")
}

// replace makes the children of rows those of their lists, where they have one.
func (c *childTable) replace(ctx context.Context, tx bun.Tx, rows []*row) error {
	position := 0
	for i, child := range c.children {
		if child == c {
			position = i
		}
	}
	var given []*row
	var order []string
	tuples := map[string][]string{} // by columns
	for _, r := range rows {
		list := r.children[position]
		if !list.given {
			continue
		}
		given = append(given, r)
		for _, child := range list.rows {
			if _, err := c.shapeFor(ctx, tx, child.columns, []*row{child}); err != nil {
				return err
			}
			names := child.columns.names
			if tuples[names] == nil {
				order = append(order, names)
			}
			tuples[names] = append(tuples[names], child.tuple())
		}
	}
	if err := c.clear(ctx, tx, given); err != nil {
		return err
	}
	for _, names := range order {
		_, err := tx.ExecContext(ctx, "INSERT INTO ? (?) ? VALUES ?",
			c.table.SQLName, bun.Safe(names), overriding(tx), bun.Safe(strings.Join(tuples[names],
				", ")))
		if err != nil {
			return err
		}
	}
	return nil
}
