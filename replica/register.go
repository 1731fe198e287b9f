package replica

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"

	"github.com/cqrsync/cqrsync/envelope"
)

// Register mirrors a model into the table of T, a bun model with a primary key. A save writes every column of T that
// the message carries; columns it does not carry keep their value, or their default in a new row; fields that T does
// not have are ignored, and so are relations. Columns named cqrs_revision and cqrs_updated are filled. A delete
// deletes the row, soft_delete or not.
//
// The row equals the master's: null is stored as NULL, whatever the Go type, and bun's nullzero and skipupdate do not
// apply. Model hooks do not run.
//
// An error is returned, and Run returns it again.
func Register[T any](r *Replica, model string, options ...Option) error {
	return RegisterType(r, reflect.TypeFor[T](), model, options...)
}

// RegisterType is Register for a type that is known at run time only, such as one made from a table's catalog.
func RegisterType(r *Replica, typ reflect.Type, model string, options ...Option) error {
	return r.bind(model, typ, options, func(b *binding) error {
		m, err := newMirror(b)
		if err != nil {
			return err
		}
		b.apply, b.check = m.apply, m.check
		return nil
	})
}

// Handle calls handle for each change of a model, in the transaction that moves the gate. What handle writes through
// tx is committed with it, or not at all: on an error the transaction is rolled back and the message tried again,
// unless the error is Permanent. What handle does elsewhere, a webhook say, may happen more than once.
//
// T is a struct, decoded by bun's column names; a bun table is not needed.
//
// An error is returned, and Run returns it again.
func Handle[T any](
	r *Replica, model string, handle func(ctx context.Context, tx bun.Tx, event Event[T]) error, options ...Option,
) error {
	return r.bind(model, reflect.TypeFor[T](), options, func(b *binding) error {
		if handle == nil {
			return errors.New("the handler is nil")
		}
		b.apply = func(ctx context.Context, tx bun.Tx, m *envelope.Message) error {
			event, err := newEvent[T](b, m)
			if err != nil {
				return Permanent(err)
			}
			return handle(ctx, tx, event)
		}
		return nil
	})
}

// Option changes how one model is read.
type Option func(*binding)

// Rename reads a column from a message field of another name. A Django master sends the foreign key author_id as
// author: Rename("author", "author_id").
func Rename(field, column string) Option {
	return func(b *binding) { b.renamed[column] = field }
}

// binding is one registered model.
type binding struct {
	model   string
	table   *schema.Table
	shapes  shapes
	renamed map[string]string // column → field of the message, where they differ
	apply   func(ctx context.Context, tx bun.Tx, m *envelope.Message) error
	check   func(ctx context.Context, db bun.IDB) error // nil where there is no table to check
}

func (r *Replica) bind(model string, typ reflect.Type, options []Option, complete func(*binding) error) error {
	if r == nil {
		return errors.New("replica is nil: make one with replica.New")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	b, err := r.newBinding(model, typ, options)
	if err == nil {
		err = complete(b)
	}
	if err == nil && r.started {
		err = errors.New("messages are already being consumed: register before Run")
	}
	if err != nil {
		err = fmt.Errorf("register model %q as %s: %w", model, typ, err)
		r.errs = append(r.errs, err)
		return err
	}
	r.models[model] = b
	return nil
}

func (r *Replica) newBinding(model string, typ reflect.Type, options []Option) (b *binding, err error) {
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
	b = &binding{model: model, table: r.db.Table(typ), shapes: make(shapes), renamed: make(map[string]string)}
	b.shapes.add(r.db, typ)
	for _, option := range options {
		option(b)
	}
	for column, field := range b.renamed {
		if !b.table.HasField(column) {
			return nil, fmt.Errorf("Rename(%q, %q): the struct has no such column", field, column)
		}
	}
	return b, nil
}
