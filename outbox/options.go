package outbox

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// Option changes what the messages of one model carry, or whether they are sent.
type Option func(*model) error

// Columns sends only the named columns. The primary key is always sent: replicas find their row by
// it.
func Columns(names ...string) Option {
	return func(m *model) error {
		columns, err := m.columnsNamed("Columns", names)
		m.columns = keepFields(m.table.Fields, func(f *schema.Field) bool {
			return f.IsPK || slices.Contains(columns, f)
		})
		return err
	}
}

// WithoutColumns sends all columns but the named ones.
func WithoutColumns(names ...string) Option {
	return func(m *model) error {
		columns, err := m.fieldsNamed("WithoutColumns", names)
		for _, f := range columns {
			if f.IsPK {
				err = errors.Join(err,
					fmt.Errorf("WithoutColumns: %s is the primary key, by which replicas find "+
						"their row", f.Name))
			}
		}
		m.columns = keepFields(m.columns, func(f *schema.Field) bool {
			return f.IsPK || !slices.Contains(columns, f)
		})
		return err
	}
}

func keepFields(fields []*schema.Field, keep func(*schema.Field) bool) []*schema.Field {
	return slices.DeleteFunc(slices.Clone(fields), func(f *schema.Field) bool { return !keep(f) })
}

// Relations loads the named bun relations of every changed entity ("Lines", "Lines.Product") with
// one query per relation for the whole transaction, and sends them nested under their column-style
// name ("lines").
func Relations(names ...string) Option {
	return func(m *model) error {
		var errs []error
		for _, name := range names {
			errs = append(errs, checkRelation(m.table, name))
		}
		m.relations = append(m.relations, names...)
		return errors.Join(errs...)
	}
}

func checkRelation(table *schema.Table, path string) error {
	head, rest, nested := strings.Cut(path, ".")
	relation, found := table.Relations[head]
	if !found {
		return fmt.Errorf("relation %q: %s has no such bun relation (tag a field with "+
			"bun:\"rel:…\")", head, table.TypeName)
	}
	if len(relation.JoinTable.PKs) == 0 {
		return fmt.Errorf("relation %q: %s has no primary key, so a NULL in one of its rows "+
			"cannot be told from a zero: tag a field with bun:\",pk\"", head, relation.JoinTable.TypeName)
	}
	if nested {
		return checkRelation(relation.JoinTable, rest)
	}
	return nil
}

// Serializer replaces the columns and relations of a SAVE by what serialize returns: one value per
// row, in the order of rows, that marshals to a JSON object and holds the primary key under its
// column name. It gets all changed rows of the transaction at once, in batches of up to a thousand,
// so that it can load what it adds with one query; queries run on tx. Rows carry the relations of
// [Relations].
func Serializer[T any](
	serialize func(ctx context.Context, tx bun.IDB, rows []*T) ([]any, error),
) Option {
	return func(m *model) error {
		m.serialize = func(ctx context.Context, tx bun.IDB, rows []reflect.Value) ([]any, error) {
			typed := make([]*T, len(rows))
			for i, row := range rows {
				typed[i] = rowOf[T](row)
			}
			objects, err := serialize(ctx, tx, typed)
			if err == nil && len(objects) != len(rows) {
				err = fmt.Errorf("the serializer returned %d objects for %d rows", len(objects),
					len(rows))
			}
			return objects, err
		}
		return m.isOf("Serializer", reflect.TypeFor[T]())
	}
}

// Filter sends only the rows for which keep is true. As with django-cqrs the revision counts all
// the same. A row that leaves the filter, which django-cqrs leaves behind on its replicas for ever,
// sends a DELETE ([FilterKeepsCopies] turns that off); one that comes back sends a SAVE.
func Filter[T any](keep func(row *T) bool) Option {
	return func(m *model) error {
		m.filter = func(row reflect.Value) bool { return keep(rowOf[T](row)) }
		return m.isOf("Filter", reflect.TypeFor[T]())
	}
}

// FilterKeepsCopies makes a row that leaves the filter send nothing, as with django-cqrs: replicas
// keep the last state they were sent.
func FilterKeepsCopies() Option {
	return func(m *model) error { m.keepsCopies = true; return nil }
}

// TrackPrevious sends, with every SAVE that changes one of the named columns, the value it had
// before the transaction (previous_data). The values are kept in the ledger, so they are right for
// partial and bulk updates too; a row that was never sent has none. It implies [EveryRevision].
func TrackPrevious(names ...string) Option {
	return func(m *model) (err error) {
		m.everyRevision = true
		m.tracked, err = m.columnsNamed("TrackPrevious", names)
		return err
	}
}

// Meta adds what meta returns to the messages (meta). Keys set with [WithMeta] win.
func Meta(meta func(ctx context.Context) map[string]any) Option {
	return func(m *model) error { m.meta = meta; return nil }
}

// DeleteData adds data to the DELETE messages (instance_data.custom). The row is what the deleting
// statement was given, often nothing but the primary key.
func DeleteData[T any](data func(ctx context.Context, row *T) map[string]any) Option {
	return func(m *model) error {
		m.deleteData = func(ctx context.Context, row reflect.Value) map[string]any {
			return data(ctx, rowOf[T](row))
		}
		return m.isOf("DeleteData", reflect.TypeFor[T]())
	}
}

// ExpireAfter lets replicas refuse a SAVE that is older than ttl when it arrives. Default: never. A
// DELETE does not expire, because no later message would repair its loss.
func ExpireAfter(ttl time.Duration) Option {
	return func(m *model) error {
		if m.ttl = ttl; ttl <= 0 {
			return fmt.Errorf("ExpireAfter(%s): want more than zero; leave the option out for "+
				"never", ttl)
		}
		return nil
	}
}

// EveryRevision sends every revision. Without it the relay drops a message that is still unsent
// when its entity has a newer one, because a message holds the whole state: catching up after an
// outage then takes as many messages as there are entities, not changes. Choose it where a handler
// must see each change. It costs speed too: the next message of an entity waits until the broker
// has confirmed the one before.
func EveryRevision() Option {
	return func(m *model) error { m.everyRevision = true; return nil }
}

// Silent counts revisions and sends nothing: for a model that is dumped and synced, not followed.
func Silent() Option {
	return func(m *model) error { m.silent = true; return nil }
}

// rowOf gives the user's functions the row itself.
func rowOf[T any](row reflect.Value) *T {
	if row.Type() != reflect.TypeFor[T]() || !row.CanAddr() {
		return new(T) // Register refused the option already
	}
	return row.Addr().Interface().(*T) //nolint:forcetypeassert // checked above
}

func (m *model) isOf(option string, typ reflect.Type) error {
	if typ != m.table.Type {
		return fmt.Errorf("%s: its function takes a %s, the model is %s", option, typ, m.table.Type)
	}
	return nil
}

// columnsNamed are fields that are read with the row. A scan-only one would be left out of every
// message.
func (m *model) columnsNamed(option string, names []string) ([]*schema.Field, error) {
	fields, err := m.fieldsNamed(option, names)
	for _, field := range fields {
		if !slices.Contains(m.table.Fields, field) {
			err = errors.Join(err,
				fmt.Errorf("%s: %s is a scan-only field of %s, no column of its table, "+
					"and is not read: add it with a Serializer", option, field.Name, m.table.TypeName))
		}
	}
	return fields, err
}

func (m *model) fieldsNamed(option string, names []string) ([]*schema.Field, error) {
	var fields []*schema.Field
	var errs []error
	for _, name := range names {
		field, err := m.table.Field(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %s has no column %q", option, m.table.TypeName,
				name))
			continue
		}
		fields = append(fields, field)
	}
	return fields, errors.Join(errs...)
}
