package outbox

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uptrace/bun/schema"
)

// Rename sends a column under another name than its own: a Django master sends the foreign key
// publisher_id as publisher, which is Rename("publisher", "publisher_id"). The values before a
// change ([TrackPrevious]) have the same name. Options that name columns, and a [Serializer], which
// names the fields itself, do not know it. The columns of a relation keep their names.
func Rename(field, column string) Option {
	return func(m *model) error {
		if _, twice := m.names[column]; twice {
			return fmt.Errorf("%s: the column is renamed twice: leave one out",
				renaming(field, column))
		}
		if m.names == nil {
			m.names = map[string]string{}
		}
		m.names[column] = field
		return nil
	}
}

// renaming names the option, and what it is in a cqrsync.yaml.
func renaming(field, column string) string {
	return fmt.Sprintf("Rename(%q, %q) (map in cqrsync.yaml)", field, column)
}

// checkRenames refuses names that replicas could not tell apart, or would not find. The other
// options have run.
func (m *model) checkRenames() error {
	var errs []error
	for _, column := range slices.Sorted(maps.Keys(m.names)) {
		if err := m.checkRename(m.names[column], column); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", renaming(m.names[column], column), err))
		}
	}
	return errors.Join(errs...)
}

func (m *model) checkRename(field, column string) error {
	of := func(f *schema.Field) bool { return f.Name == column }
	tracked := slices.ContainsFunc(m.tracked, of)
	switch {
	case !slices.ContainsFunc(m.table.Fields, of):
		return fmt.Errorf("%s has no such column: write it as its table has it", m.table.TypeName)
	case slices.ContainsFunc(m.table.PKs, of):
		return errors.New("the column is the primary key, by which replicas find their row: leave " +
			"it out, and give the replica's key another name, if it needs one (replica.Rename, " +
			"map)")
	case m.serialize != nil && !tracked:
		return errors.New("the Serializer names the fields that are sent: rename it there")
	case !slices.ContainsFunc(m.columns, of) && !tracked:
		return errors.New("the column is not sent: leave it out here, or send it (Columns, " +
			"WithoutColumns)")
	case field == "" || checkText(field) != nil:
		return errors.New("want the name of a field")
	case isStamp(field):
		return errors.New("the name is that of the ledger's revision or time: take another one")
	}
	for _, path := range m.relations {
		name, _, _ := strings.Cut(path, ".")
		if relation := m.table.Relations[name]; relation != nil && relation.Field.Name == field {
			return fmt.Errorf("the relation %s has the name, too: take another one", name)
		}
	}
	for _, f := range slices.Concat(m.columns, m.tracked) {
		if f.Name != column && m.fieldName(f) == field {
			return fmt.Errorf("the column %s has the name, too: take another one, rename that, or "+
				"leave it out (WithoutColumns; columns in cqrsync.yaml)", f.Name)
		}
	}
	return nil
}

// fieldName is what messages call a column.
func (m *model) fieldName(f *schema.Field) string {
	if name, renamed := m.names[f.Name]; renamed {
		return name
	}
	return f.Name
}

// Fields says, by the names of the columns that a model sends, what messages call them (see
// [Rename]).
func (b operated) Fields(model string) (map[string]string, error) {
	m, err := b.modelOfID(model)
	if err != nil {
		return nil, err
	}
	fields := make(map[string]string, len(m.columns))
	for _, f := range m.columns {
		fields[f.Name] = m.fieldName(f)
	}
	return fields, nil
}
