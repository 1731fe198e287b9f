package replica

import (
	"reflect"
	"slices"

	"github.com/uptrace/bun/schema"
)

// Shape is how a model is kept.
type Shape struct {
	// Table is the bun table of the registered type.
	Table *schema.Table
	// Key are the columns that hold the master's key, in its order: the primary key without what Constant fills.
	Key []*schema.Field
	// Mirrored says that the rows are kept in Table; else a handler does what it likes, and the ledger is all there is.
	Mirrored bool
	// Fields is what the master calls each column. Constant, computed and own ones are not among them.
	Fields map[string]string
	// Constants are the columns that have the same value in every row.
	Constants map[string]any
	// Computed are the columns that the service's code makes of a message, or of nothing.
	Computed []string
	// NaNAsNull says that NULL stands for NaN and the infinities, too.
	NaNAsNull bool
	// Children are the relations that are kept in tables of their own.
	Children []Child
}

// Child is how a has-many relation is kept.
type Child struct {
	// Field is what the master calls the relation.
	Field string
	Table *schema.Table
	// Columns are those that the master's lists fill, under its names: not those that point to the parent.
	Columns []*schema.Field
}

// Model returns how a registered model is kept.
func (r *Replica) Model(model string) (Shape, error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return Shape{}, err
	}
	shape := Shape{
		Table: b.table, Key: b.key, Mirrored: isMirror(b), NaNAsNull: b.finite,
		Fields: make(map[string]string, len(b.table.Fields)), Constants: map[string]any{},
	}
	if !isMirror(b) {
		shape.Key = b.table.PKs
		if id := b.table.FieldMap["id"]; len(shape.Key) == 0 && id != nil {
			shape.Key = []*schema.Field{id}
		}
	}
	for _, f := range b.table.Fields {
		value, constant := b.constants[f.Name]
		_, computed := b.fixed[f.Name]
		switch {
		case constant && isScalar(reflect.ValueOf(value).Kind()):
			shape.Constants[f.Name] = value
		case computed:
			shape.Computed = append(shape.Computed, f.Name)
		case !b.own[f.Name]:
			shape.Fields[f.Name] = b.fieldName(f.Name)
		}
	}
	if m, is := b.mirror(); is {
		for _, c := range m.children {
			shape.Children = append(shape.Children, c.shape())
		}
	}
	return shape, nil
}

func (c *childTable) shape() Child {
	return Child{
		Field: c.fieldName(c.relation.Field.Name), Table: c.table,
		Columns: slices.DeleteFunc(slices.Clone(c.table.Fields), func(f *schema.Field) bool {
			_, joins := c.joins[f]
			return joins
		}),
	}
}
