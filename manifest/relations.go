package manifest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// Relation are rows of another table that travel inside the messages of a model.
type Relation struct {
	// Table is its name, with its schema where that is not on the search path. It needs a primary
	// key.
	Table string `yaml:"table"`
	// Key are its columns that hold the key of the model, in the order of that key.
	Key Names `yaml:"key"`
	// Columns are those that are nested. Default: all.
	Columns Names `yaml:"columns"`
	// Order are the columns by which a list is ordered; among equals, and by default, it is the
	// primary key.
	Order Names `yaml:"order"`
	// Many makes a list. Default: one object, or null, of a table with a unique index on key.
	Many bool `yaml:"many"`
}

// checkRelations says what is wrong with the relations of the file.
func (m Model) checkRelations() (errs []error) {
	for _, name := range slices.Sorted(maps.Keys(m.Relations)) {
		r := m.Relations[name]
		add := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("relations: %s: "+format, append([]any{name}, args...)...))
		}
		if !columnName.MatchString(name) || name == "t" { // which is the model's table in a filter
			add("want a name of letters, digits and _, but for t")
		}
		if !tableName.MatchString(r.Table) {
			add("table: %q, want a name of letters, digits and _, or schema.name", r.Table)
		}
		if len(r.Key) == 0 {
			add("key: not set, want the columns of table %s that hold the key of %s; a table two steps "+
				"away holds none: give it one, or nest it in a service in Go", r.Table, m.Table)
		}
		for field, names := range map[string]Names{
			"key": r.Key, "columns": r.Columns, "order": r.Order,
		} {
			for i, column := range names {
				if !columnName.MatchString(column) {
					add("%s: %q, want a name of letters, digits and _", field, column)
				}
				if slices.Contains(names[:i], column) {
					add("%s: %s stands there twice", field, column)
				}
			}
		}
		if len(r.Order) > 0 && !r.Many {
			add("order: there is one row: take it out, or say many: true")
		}
		for _, other := range m.Map {
			if other == name {
				add("map: a column is sent under the same name")
			}
		}
	}
	return errs
}

// nested is a relation with what the catalog says of it.
type nested struct {
	Relation

	name    string
	read    []catalog.Column // with those that are not sent: the key, and what orders the list
	order   []string
	ownKeys []string // the primary key
}

// sends says that a column of a nested row is sent.
func (n nested) sends(c catalog.Column) bool {
	if len(n.Columns) > 0 {
		return slices.Contains(n.Columns, c.Name)
	}
	return !c.Generated
}

// nestedTables reads the catalog about the relations, in the order of their names.
func (m Model) nestedTables(ctx context.Context, db *bun.DB) (all []nested, err error) {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(m.Relations)) {
		n, err := m.nestedTable(ctx, db, name)
		if err != nil {
			errs = append(errs, fmt.Errorf("relations: %s: %w", name, err))
		}
		all = append(all, n)
	}
	return all, errors.Join(errs...)
}

func (m Model) nestedTable(ctx context.Context, db *bun.DB, name string) (nested, error) {
	n := nested{Relation: m.Relations[name], name: name}
	shape, err := catalog.ShapeOf(ctx, db, string(db.QueryGen().AppendIdent(nil, n.Table)), n.Table)
	if err != nil {
		return n, err
	}
	var errs []error
	if len(shape.Columns) == 0 {
		return n, fmt.Errorf("table %s does not exist", n.Table)
	}
	own, err := columnsOf(ctx, db, m.Table)
	if err != nil {
		return n, err
	}
	if slices.ContainsFunc(own, func(c catalog.Column) bool {
		return m.takes(c) && m.nameOf(c.Name) == name
	}) {
		errs = append(errs, fmt.Errorf("a column of table %s is sent under the same name", m.Table))
	}
	for _, column := range slices.Concat(n.Key, n.Columns, n.Order) {
		if _, is := shape.Column(column); !is { // in the same case: a struct is made of it
			errs = append(errs, fmt.Errorf("table %s has no column %q", n.Table, column))
		}
	}
	for _, c := range shape.Columns {
		if c.IsKey {
			n.ownKeys = append(n.ownKeys, c.Name)
		}
		if c.IsKey || n.sends(c) || slices.Contains(n.Key, c.Name) {
			n.read = append(n.read, c)
		}
	}
	if len(n.ownKeys) == 0 {
		errs = append(errs, fmt.Errorf("table %s has no primary key, by which the rows are told apart: "+
			"give it one", n.Table))
	}
	if !n.Many && !isUnique(shape, n.Key) {
		errs = append(errs, fmt.Errorf("several rows of table %s may belong to one of %s: say many: "+
			"true for a list, or make a unique index on (%s)", n.Table, m.Table, strings.Join(n.Key, ", ")))
	}
	n.order = slices.Clone(n.Order)
	for _, key := range n.ownKeys {
		if !slices.Contains(n.order, key) {
			n.order = append(n.order, key)
		}
	}
	return n, errors.Join(errs...)
}

// relationFields makes the fields of the relations for the struct of the model, whose key has the
// given fields.
func (m Model) relationFields(
	ctx context.Context, db *bun.DB, key []reflect.StructField,
) ([]reflect.StructField, error) {
	all, err := m.nestedTables(ctx, db)
	if err != nil {
		return nil, err
	}
	var fields []reflect.StructField
	var errs []error
	for _, n := range all {
		field, err := m.relationField(db, n, key)
		if err != nil {
			errs = append(errs, fmt.Errorf("relations: %s: %w", n.name, err))
		}
		fields = append(fields, field)
	}
	return fields, errors.Join(errs...)
}

// relationField makes the struct of the nested rows, and the field that holds them.
func (m Model) relationField(
	db *bun.DB, n nested, key []reflect.StructField,
) (field reflect.StructField, err error) {
	if len(key) != len(n.Key) {
		return field, fmt.Errorf("key: %d columns, want the %d that hold the key of %s",
			len(n.Key), len(key), m.Table)
	}
	row := []reflect.StructField{{
		Name: "BaseModel", Type: reflect.TypeFor[bun.BaseModel](), Anonymous: true,
		Tag: reflect.StructTag(fmt.Sprintf(`bun:"table:%s,alias:x_%s"`, n.Table, n.name)),
	}}
	var errs []error
	for i, c := range n.read {
		f, err := m.nestedField(db, n, c, i, key)
		if err != nil {
			errs = append(errs, fmt.Errorf("column %q of table %s: %w", c.Name, n.Table, err))
			continue
		}
		row = append(row, f)
	}
	if err := errors.Join(errs...); err != nil {
		return field, err
	}
	tag := `bun:"` + n.name + ",rel:has-one"
	typ := reflect.PointerTo(reflect.StructOf(row))
	if n.Many {
		tag, typ = `bun:"`+n.name+",rel:has-many", reflect.SliceOf(reflect.StructOf(row))
	}
	for i, name := range n.Key {
		tag += fmt.Sprintf(",join:%s=%s", columnOf(key[i]), name)
	}
	tag += fmt.Sprintf(`" outbox:"order:%s"`, strings.Join(n.order, ","))
	return reflect.StructField{
		Name: relationPrefix + n.name, Type: typ, Tag: reflect.StructTag(tag),
	}, nil
}

// nestedField is the field of one column of the nested rows. What holds the key is read as the same
// type as the key, to which it is compared.
func (m Model) nestedField(
	db *bun.DB, n nested, c catalog.Column, i int, key []reflect.StructField,
) (reflect.StructField, error) {
	at, isOwn, said := slices.Index(n.Key, c.Name), c.IsKey, ""
	if at >= 0 {
		c.IsKey, said = true, m.Types[columnOf(key[at])]
	}
	f, err := fieldOf(c, i, db.Dialect().Name(), said)
	if err != nil {
		return f, err
	}
	if at >= 0 && f.Type != key[at].Type {
		return f, fmt.Errorf("its type %s cannot hold column %s of %s: make them alike",
			c.Type, columnOf(key[at]), m.Table)
	}
	if at >= 0 && !isOwn {
		f.Tag = reflect.StructTag(strings.Replace(string(f.Tag), ",pk", "", 1))
	}
	if !n.sends(c) {
		f.Tag += ` outbox:"-"`
	}
	return f, nil
}

// relationPrefix begins the Go names of the relations' fields, which have to begin with a capital.
const relationPrefix = "Relation_"

func columnOf(f reflect.StructField) string { return f.Tag.Get("json") }

// relationNames are the relations by their Go names.
func (m Model) relationNames() []string {
	var names []string
	for _, name := range slices.Sorted(maps.Keys(m.Relations)) {
		names = append(names, relationPrefix+name)
	}
	return names
}

// isUnique says that columns tell all rows apart.
func isUnique(shape catalog.TableShape, columns []string) bool {
	isOther := func(c string) bool { return !slices.Contains(columns, c) }
	return slices.ContainsFunc(shape.Unique, func(u catalog.UniqueKey) bool {
		return !u.Partial && !slices.ContainsFunc(u.Columns, isOther)
	})
}
