package replica

import (
	"reflect"
	"slices"

	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// Model returns how a registered model is kept.
func (r inspected) Model(model string) (mirrored.Shape, error) {
	b, err := r.bindingOf(model)
	if err != nil {
		return mirrored.Shape{}, err
	}
	shape := mirrored.Shape{
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

func (c *childTable) shape() mirrored.Child {
	return mirrored.Child{
		Field: c.fieldName(c.relation.Field.Name), Table: c.table,
		Columns: slices.DeleteFunc(slices.Clone(c.table.Fields), func(f *schema.Field) bool {
			_, joins := c.joins[f]
			return joins
		}),
	}
}
