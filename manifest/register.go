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

	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Only is the manifest with one of its models, so that what is wrong with another does not matter.
func (m *Manifest) Only(id string) (*Manifest, error) {
	model, found := m.Models[id]
	if !found {
		return nil, fmt.Errorf("models: no %q, want one of %s", id, strings.Join(slices.Sorted(maps.Keys(m.Models)), ", "))
	}
	return &Manifest{Queue: m.Queue, Models: map[string]Model{id: model}}, nil
}

// Box makes an outbox on db with the models registered.
func (m *Manifest) Box(ctx context.Context, db *bun.DB, config outbox.Config) (*outbox.Box, error) {
	box, err := outbox.New(db, config)
	if err != nil {
		return nil, err
	}
	err = m.each(func(id string, model Model) error {
		typ, err := typeOf(ctx, db, model)
		if err != nil {
			return err
		}
		var options []outbox.Option
		for _, column := range slices.Sorted(maps.Keys(model.Map)) {
			options = append(options, outbox.Rename(model.Map[column], column))
		}
		if model.NaNAsNull {
			options = append(options, outbox.NaNAsNull())
		}
		if model.EveryRevision {
			options = append(options, outbox.EveryRevision())
		}
		if len(model.Track) > 0 {
			options = append(options, outbox.TrackPrevious(model.Track...))
		}
		return outbox.RegisterType(box, typ, id, options...)
	})
	return box, err
}

// Replica makes a replica on db with the models registered, whose tables it checks. Queue is taken from the manifest where config has none.
func (m *Manifest) Replica(ctx context.Context, db *bun.DB, config replica.Config) (*replica.Replica, error) {
	if config.Queue == "" {
		config.Queue = m.Queue
	}
	rep, err := replica.New(db, config)
	if err != nil {
		return nil, err
	}
	err = m.each(func(id string, model Model) error {
		typ, err := typeOf(ctx, db, model)
		if err != nil {
			return err
		}
		var options []replica.Option
		for _, column := range slices.Sorted(maps.Keys(model.Map)) {
			options = append(options, replica.Rename(model.Map[column], column))
		}
		if model.NaNAsNull {
			options = append(options, replica.NaNAsNull())
		}
		for _, column := range slices.Sorted(maps.Keys(model.Constants)) {
			options = append(options, replica.Constant(column, constantOf(typ, column, model.Constants[column])))
		}
		return replica.RegisterType(rep, typ, id, options...)
	})
	if err == nil {
		err = rep.CheckTables(ctx)
	}
	return rep, err
}

// constantOf is a value of the file as the column has it: 7 in a column of texts is the text.
func constantOf(typ reflect.Type, column string, value any) any {
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Type.Kind() == reflect.Pointer {
			f.Type = f.Type.Elem()
		}
		if f.Tag.Get("json") == column && f.Type.Kind() == reflect.String {
			return fmt.Sprint(value)
		}
	}
	return value
}

// each hands over the models in order, and returns what is wrong with any of them.
func (m *Manifest) each(register func(id string, model Model) error) error {
	var errs []error
	for _, id := range slices.Sorted(maps.Keys(m.Models)) {
		if err := register(id, m.Models[id]); err != nil {
			errs = append(errs, fmt.Errorf("model %s: %w", id, err))
		}
	}
	return errors.Join(errs...)
}
