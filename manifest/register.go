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

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// Only is the manifest with one of its models, so that what is wrong with another does not matter.
func (m *Manifest) Only(id string) (*Manifest, error) {
	model, found := m.Models[id]
	if !found {
		return nil, fmt.Errorf("models: no %q, want one of %s",
			id, strings.Join(slices.Sorted(maps.Keys(m.Models)), ", "))
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
		options, err := model.filterOption(ctx, db)
		if err != nil {
			return err
		}
		if len(model.Relations) > 0 {
			options = append(options, outbox.Relations(model.relationNames()...))
		}
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

// filterOption has the outbox send only what the model's filter lets through.
func (m Model) filterOption(ctx context.Context, db *bun.DB) ([]outbox.Option, error) {
	condition, err := m.conditionOf(ctx, db)
	if condition == "" || err != nil {
		return nil, err
	}
	option, is := boxed.Where(condition).(outbox.Option)
	if !is {
		return nil, errors.New("filter: the outbox does not know conditions")
	}
	return []outbox.Option{option}, nil
}

// Replica makes a replica on db with the models registered, whose tables it checks. Queue is taken
// from the manifest where config has none.
func (m *Manifest) Replica(
	ctx context.Context, db *bun.DB, config replica.Config,
) (*replica.Replica, error) {
	if config.Queue == "" {
		config.Queue = m.Queue
	}
	rep, err := replica.New(db, config)
	if err != nil {
		return nil, err
	}
	err = m.each(func(id string, model Model) error {
		if err := model.checkReplica(); err != nil {
			return err
		}
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
			value := constantOf(typ, column, model.Constants[column])
			options = append(options, replica.Constant(column, value))
		}
		return replica.RegisterType(rep, typ, id, options...)
	})
	if err == nil {
		err = rep.CheckTables(ctx)
	}
	return rep, err
}

// checkReplica refuses what only a master can do, where whoever wrote it may believe that a replica
// does.
func (m Model) checkReplica() error {
	if m.Filter != "" {
		return errors.New("filter: a replica keeps what its master sends: put the filter into the " +
			"master's file, and take it out here (diff reads both: --master-config, --replica-config)")
	}
	if len(m.Relations) > 0 {
		return errors.New("relations: a replica keeps one table, and a column of JSON for what is " +
			"nested: put the relations into the master's file, and take them out here (diff reads both: " +
			"--master-config, --replica-config)")
	}
	return nil
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
