package replica

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Queue is the name of this replica service.
func (r *Replica) Queue() string { return r.config.Queue }

// Now is the time by the replica database's clock.
func (r *Replica) Now(ctx context.Context) (time.Time, error) {
	if r.tables == nil {
		return time.Time{}, errors.New("replica: no database, and so no clock of it")
	}
	now, err := r.tables.Now(ctx)
	if err != nil {
		return now, fmt.Errorf("replica: %w", err)
	}
	return now, nil
}

func (r *Replica) bindingOf(model string) (*binding, error) {
	if err := r.start(); err != nil {
		return nil, err
	}
	if b := r.models[model]; b != nil {
		return b, nil
	}
	return nil, fmt.Errorf("replica: model %q is not registered", model)
}

// Models are the registered models' CQRS ids, in order.
func (r *Replica) Models() ([]string, error) {
	if err := r.start(); err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(r.models)), nil
}
