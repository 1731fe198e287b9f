package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/stored"
)

// Register mirrors a model into the table of T, a bun model with a primary key. A save writes every
// column of T that the message carries; columns it does not carry keep their value, or their
// default in a new row; fields that T does not have are ignored, and so are relations unless
// Children names them. Columns named cqrs_revision and cqrs_updated are filled. A delete deletes
// the row, soft_delete or not.
//
// The row equals the master's: null is stored as NULL, whatever the Go type, and bun's nullzero and
// skipupdate do not apply. Model hooks do not run. Of several messages about one row that are
// applied together, only the last is written.
//
// An error is returned, and Run returns it again.
func Register[T any](r *Replica, model string, options ...Option) error {
	return RegisterType(r, reflect.TypeFor[T](), model, options...)
}

// RegisterType is Register for a type that is known at run time only, such as one made from a
// table's catalog.
func RegisterType(r *Replica, typ reflect.Type, model string, options ...Option) error {
	return r.bind(model, typ, options, func(b *binding) error {
		m, err := newMirror(&r.engine, b)
		if err != nil {
			return err
		}
		for _, other := range r.order {
			if err := b.checkApart(other); err != nil {
				return err
			}
		}
		b.applier = m
		return nil
	})
}

// Handle calls handle for each change of a model, in the transaction that moves the gate. What
// handle writes through tx is committed with it, or not at all: on an error it is rolled back, the
// message answered for as the error says (see Permanent, Retry, Discard), and its neighbours in the
// transaction do not notice. What handle does elsewhere may happen more than once; for what has no
// part in the database, HandleFunc holds no transaction open meanwhile.
//
// T is a struct, decoded by bun's column names; a bun table is not needed.
//
// An error is returned, and Run returns it again.
func Handle[T any](
	r *Replica, model string, handle func(ctx context.Context, tx bun.Tx, event Event[T]) error,
	options ...Option,
) error {
	return bindHandler[T](r, model, options, handle == nil, true, func(events events) applier {
		return &eachInTransaction{events, func(ctx context.Context, tx bun.Tx, work any) error {
			return handle(ctx, tx, work.(Event[T]))
		}}
	})
}

// HandleBatch is Handle for many keys at once: it gets the events of one transaction together, at
// most one per key, the newest. When it fails, it is called again for the halves, until the event
// that makes it fail is alone.
func HandleBatch[T any](
	r *Replica, model string, handle func(ctx context.Context, tx bun.Tx, events []Event[T]) error,
	options ...Option,
) error {
	return bindHandler[T](r, model, options, handle == nil, true, func(events events) applier {
		return &newestTogether{events, func(ctx context.Context, tx bun.Tx, works []any) error {
			batch := make([]Event[T], len(works))
			for i, work := range works {
				batch[i] = work.(Event[T])
			}
			return handle(ctx, tx, batch)
		}}
	})
}

// HandleFunc is Handle without a transaction, for effects that are not in the database: a webhook,
// a search engine. As many run at once as the replica has Workers, never two for one key in one
// process. The ledger moves on after handle has returned, so a crash in between means that handle
// is called again for the same event, and a process that shares the queue may call it for a newer
// event of the key at the same time: let the receiver compare revisions.
//
// It works without a database, too: see New.
func HandleFunc[T any](
	r *Replica, model string, handle func(ctx context.Context, event Event[T]) error,
	options ...Option,
) error {
	return bindHandler[T](r, model, options, handle == nil, false, func(events events) applier {
		return &eachOutside{events, func(ctx context.Context, work any) error {
			return handle(ctx, work.(Event[T]))
		}}
	})
}

func bindHandler[T any](
	r *Replica, model string, options []Option, missing, needsDB bool, made func(events) applier,
) error {
	return r.bind(model, reflect.TypeFor[T](), options, func(b *binding) error {
		switch {
		case missing:
			return errors.New("the handler is nil")
		case needsDB && r.room == nil:
			return errors.New("the replica has no database: use HandleFunc, or pass a *bun.DB to " +
				"New")
		case len(b.fixed) > 0 || len(b.childNames) > 0 || len(b.own) > 0:
			return errors.New("Constant, Computed, Own and Children are for Register: a handler " +
				"writes what it wants")
		}
		b.applier = made(func(m *envelope.Message, fields map[string]json.RawMessage) (any, error) {
			return newEvent[T](b, m, fields)
		})
		return nil
	})
}

// binding is one registered model.
type binding struct {
	model      string
	table      *schema.Table
	shapes     shapes
	renamed    map[string]string // column → field of the message, where they differ
	fixed      map[string]computation
	constants  map[string]any // the values of those of fixed that are the same in every row
	own        map[string]bool
	key        []*schema.Field // of a mirror: the primary key columns that the master's key fills
	respells   bool            // the key is a uuid, or has one
	siblings   []*binding      // other models in the same table
	kinds      atomic.Pointer[[]stored.Kind]
	unsent     sync.Map // columns whose field a message lacked, once each
	required   []string
	childNames []string
	retry      RetryPolicy
	direct     bool // only what is for this queue alone
	finite     bool // NaN and the infinities are NULL

	applied atomic.Int64 // messages that changed the ledger
	newest  atomic.Int64 // the latest time of the master's clock among them, in microseconds

	applier applier
	manner  manner // of applier
}

func (r *Replica) bind(
	model string, typ reflect.Type, options []Option, complete func(*binding) error,
) error {
	if r == nil {
		return errors.New("replica is nil: make one with replica.New")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := r.newBinding(model, typ, options)
	if err == nil {
		err = complete(b)
	}
	if err == nil {
		b.respells, b.manner = b.hasUUIDKey(), b.applier.manner()
	}
	if err == nil && r.started {
		err = errors.New("messages are already being consumed: register before Run")
	}
	if err != nil {
		as := fmt.Sprintf("register model %q as %s", model, typ)
		if typ != nil && typ.Name() == "" && typ.Kind() == reflect.Struct {
			// its type is made of a table's catalog, and says nothing to who wrote a yaml
			as = fmt.Sprintf("model %q", model)
		}
		err = fmt.Errorf("%s: %w", as, err)
		r.errs = append(r.errs, err)
		return err
	}
	r.models[model] = b
	r.order = append(r.order, b)
	return nil
}

func (r *Replica) newBinding(
	model string, typ reflect.Type, options []Option,
) (b *binding, err error) {
	// bun panics about tags it cannot make sense of.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bun cannot use the type: %v", p)
		}
	}()
	if err := envelope.CheckModel(model); err != nil {
		return nil, err
	}
	if r.models[model] != nil {
		return nil, errors.New("the model is registered twice")
	}
	if typ.Kind() != reflect.Struct {
		return nil, fmt.Errorf("want a struct, not a %s", typ.Kind())
	}
	tables := r.bunTables()
	b = &binding{
		model:     model,
		table:     tables.Get(typ),
		shapes:    make(shapes),
		renamed:   make(map[string]string),
		fixed:     make(map[string]computation),
		constants: make(map[string]any),
		own:       make(map[string]bool),
		retry:     r.config.Retry,
	}
	b.shapes.add(tables, typ)
	for _, option := range options {
		option(b)
	}
	for column, field := range b.renamed {
		named := func(m member) bool { return m.name == column }
		if !slices.ContainsFunc(b.shapes[b.table.Type], named) {
			return nil, fmt.Errorf("Rename(%q, %q): the struct has no such column", field, column)
		}
	}
	for column := range b.fixed {
		if !b.table.HasField(column) {
			return nil, fmt.Errorf("Constant or Computed(%q): the struct has no such column",
				column)
		}
	}
	for column := range b.own {
		if f := b.table.FieldMap[column]; f == nil || f.IsPK || b.fixed[column] != nil ||
			b.renamed[column] != "" {
			return nil, fmt.Errorf("Own(%q): want a column of the struct that is no part of the "+
				"key and that no other option fills", column)
		}
	}
	b.retry = b.retry.withDefaults(r.config.Retry)
	return b, b.retry.validate()
}

// bunTables is bun's knowledge about struct types.
func (r *Replica) bunTables() *schema.Tables {
	if r.db == nil {
		return schema.NewNopQueryGen().Dialect().Tables()
	}
	return r.db.Dialect().Tables()
}
