package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/stored"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// model is a registered entity type.
type model struct {
	box   *Box
	id    string // CQRS id
	table *schema.Table

	columns       []*schema.Field   // what a SAVE carries
	names         map[string]string // by the columns that have another one in messages
	finite        bool              // NaN and the infinities are sent as null
	relations     []string
	serialize     func(ctx context.Context, tx bun.IDB, rows []reflect.Value) ([]any, error)
	filter        func(row reflect.Value) bool
	condition     string // a filter in SQL
	keepsCopies   bool
	tracked       []*schema.Field
	meta          func(ctx context.Context) map[string]any
	deleteData    func(ctx context.Context, row reflect.Value) map[string]any
	ttl           time.Duration
	silent        bool
	accepted      []FindingKind
	everyRevision bool
	triggers      bool // the database is to capture it

	plain atomic.Pointer[plain]         // what the catalog said of the table's columns
	asked atomic.Pointer[askedTraits]   // and of what else writes it
	kinds atomic.Pointer[[]stored.Kind] // and of its key
}

// Register declares that T, a bun model with a primary key, is sent to replicas under the CQRS id
// id: letters, digits, "_" and "-". Replicas know the model by this id only, so Go types and tables
// may be renamed later.
//
// Errors are also remembered: RunInTx refuses to run while a registration is wrong, so a failure
// cannot be missed.
func Register[T any](b *Box, id string, options ...Option) error {
	return RegisterType(b, reflect.TypeFor[T](), id, options...)
}

// RegisterType is [Register] for a type that is known at run time only, such as one made from a
// table's catalog.
func RegisterType(b *Box, typ reflect.Type, id string, options ...Option) error {
	m, err := newModel(b, typ, id, options)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		err = b.add(m)
		b.observeType(typ)
	}
	if err != nil {
		what := fmt.Sprintf("register %s as %q", typ, id)
		// made of a table's catalog: its text says nothing that its operator wrote
		if typ.Name() == "" {
			what = fmt.Sprintf("model %q", id)
		}
		err = fmt.Errorf("outbox: %s: %w", what, err)
		b.invalid = append(b.invalid, err)
	}
	return err
}

func newModel(b *Box, typ reflect.Type, id string, options []Option) (*model, error) {
	if typ.Kind() != reflect.Struct {
		return nil, fmt.Errorf("%s is not a struct: register the bun model itself, not a pointer "+
			"or slice of it", typ)
	}
	table := b.db.Table(typ)
	m := &model{box: b, id: id, table: table, columns: table.Fields, finite: b.finite}
	errs := []error{envelope.CheckModel(id)}
	if len(m.table.PKs) == 0 {
		errs = append(errs, errors.New(`no primary key: tag a field with bun:",pk"`))
	}
	for _, option := range options {
		errs = append(errs, option(m))
	}
	m.columns = slices.DeleteFunc(slices.Clone(m.columns), func(f *schema.Field) bool {
		return isStamp(f.Name)
	})
	errs = append(errs, m.checkRenames())
	if m.serialize == nil {
		errs = append(errs, m.checkColumns())
	}
	return m, errors.Join(errs...)
}

// isStamp says that an object's member is one that envelope.Stamp writes, from the ledger. A table
// that was a Django master's has columns of these names, with revisions that nobody raises any
// more.
func isStamp(name string) bool { return name == revisionColumn || name == updatedColumn }

// The columns in which django-cqrs keeps the revision of a row, and the time of it.
const (
	revisionColumn = "cqrs_revision"
	updatedColumn  = "cqrs_updated"
)

// checkColumns refuses types that cannot be sent, such as a channel, before the first row is
// written.
func (m *model) checkColumns() error {
	var errs []error
	for _, field := range m.columns {
		if typ := unsendable(field.StructField.Type, map[reflect.Type]bool{}); typ != nil {
			errs = append(errs,
				fmt.Errorf("column %s: a %s cannot be sent: give its type MarshalJSON, or leave "+
					"the column out with WithoutColumns", field.Name, typ))
		}
	}
	return errors.Join(errs...)
}

func (b *Box) add(m *model) error {
	if other, found := b.byID[m.id]; found {
		return fmt.Errorf("the CQRS id is taken by %s", other.table.Type)
	}
	name := registeredName(m)
	for _, other := range b.byName[name.name] {
		if taken := registeredName(other); taken.schema == name.schema || taken.schema == "" ||
			name.schema == "" {
			return fmt.Errorf("table %s may be %s, which is registered already, as %q: if they "+
				"are two, name the schema of both (bun:\"table:schema.name\"; table in "+
				"cqrsync.yaml)", m.table.Name, other.table.Name, other.id)
		}
	}
	b.byID[m.id], b.byType[m.table.Type] = m, m
	b.byName[name.name] = append(b.byName[name.name], m)
	for _, r := range m.relatedTables() {
		bare := registeredName(&model{table: r.table}).name
		b.related[bare] = append(b.related[bare], r)
	}
	return nil
}

// models lists the registered models in the order of their ids.
func (b *Box) models() []*model {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.SortedFunc(maps.Values(b.byID), func(a, b *model) int {
		return strings.Compare(a.id, b.id)
	})
}

// ErrNotMigrated says that the outbox tables are missing or older than this version: call
// [Box.Migrate], or run "relay migrate".
var ErrNotMigrated = tables.ErrNotMigrated

// registrations returns what is wrong with them, all at once.
func (b *Box) registrations() error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return errors.Join(b.invalid...)
}

// ready says whether transactions may run: all registrations are right, and the tables are there.
// It asks the database until they are, and never again; the catalog it asks now and then.
func (b *Box) ready(ctx context.Context) error {
	if !b.checked.Load() {
		if err := b.migrator.RequireMigrated(ctx, db.Outbox); err != nil {
			return errors.Join(b.registrations(), err)
		}
		b.checked.Store(true)
	}
	if err := b.registrations(); err != nil {
		return err
	}
	return errors.Join(b.askKin(ctx), b.askTriggers(ctx), b.prepareRecords(ctx))
}

// prepareRecords prepares the recording statements of models whose columns are known since the last
// transaction.
func (b *Box) prepareRecords(ctx context.Context) error {
	if !b.prepare || !b.toPrepare.CompareAndSwap(true, false) {
		return nil
	}
	for _, m := range b.models() {
		if p := m.plain.Load(); p != nil && p.rows != nil {
			if err := b.writer.Prepare(ctx, p.rows); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Box) modelOfType(typ reflect.Type) *model {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.byType[typ]
}

// keyOf returns the key of one row: its primary key as the wire's JSON and as the ledger's text. ok
// is false for a row whose key the database has yet to draw; a row that was read has one, be it
// zero.
func (m *model) keyOf(row record) (pk []byte, key string, ok bool, err error) {
	pk, key, ok, err = encodeKey(m.table.PKs, row)
	if err != nil {
		err = fmt.Errorf("primary key of %s: %w", m.table.TypeName, err)
	}
	return pk, key, ok, err
}

func encodeKey(columns []*schema.Field, row record) (pk []byte, key string, ok bool, err error) {
	parts := make([][]byte, len(columns))
	for i, field := range columns {
		if parts[i], err = encodeField(field, row); err != nil {
			return nil, "", false, fmt.Errorf("column %s: %w", field.Name, err)
		}
		if bytes.Equal(parts[i], null) {
			return nil, "", false, nil
		}
	}
	pk = parts[0]
	if len(parts) > 1 {
		pk = jsonArray(parts)
	}
	key, err = envelope.KeyOf(pk)
	return pk, key, err == nil, err
}
