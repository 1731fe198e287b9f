package replica

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"

	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// WantBackfills notes which models the replica asks its master for: those that it has nothing of,
// and never asked for. It is for the time before the first message, because afterwards there is
// something. Models of which the replica takes only what is sent to it alone are not among them.
func (r inspected) WantBackfills(ctx context.Context) error {
	known, err := r.tables.Backfills(ctx, r.config.Queue)
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	for _, b := range r.order {
		if _, is := known[b.model]; is || b.direct {
			continue
		}
		empty, err := r.isEmpty(ctx, b)
		if err != nil {
			return err
		}
		if !empty {
			continue
		}
		if err := r.tables.WantBackfill(ctx, r.config.Queue, b.model, rand.Text()); err != nil {
			return fmt.Errorf("replica: %w", err)
		}
	}
	return nil
}

// isEmpty says that neither the ledger has a live key of a model nor its table a row.
func (r inspected) isEmpty(ctx context.Context, b *binding) (bool, error) {
	keys, err := r.ledger.CountLive(ctx, r.db, b.model, 1)
	if err != nil {
		return false, fmt.Errorf("replica: %w", err)
	}
	rows, err := r.Count(ctx, b.model, 1)
	return keys == 0 && rows == 0, err
}

// WantedBackfills returns those that have not come yet, rows before those that point to them.
func (r inspected) WantedBackfills(ctx context.Context) ([]mirrored.Backfill, error) {
	known, err := r.tables.Backfills(ctx, r.config.Queue)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	order, err := r.parentsFirst(ctx)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	var wanted []mirrored.Backfill
	for i, b := range order {
		k, is := known[b.model]
		if !is || k.Done {
			continue
		}
		one := mirrored.Backfill{Model: k.Model, ID: k.ID}
		if m, is := b.mirror(); is {
			for _, p := range m.shape.Load().parents {
				// Of tables that point to each other one is first all the same.
				if slices.ContainsFunc(order[:i],
					func(b *binding) bool { return b.model == p.model }) {
					one.Parents = append(one.Parents, p.model)
				}
			}
		}
		wanted = append(wanted, one)
	}
	return wanted, nil
}

// parentsFirst returns the models in the order in which a batch writes them.
func (r inspected) parentsFirst(ctx context.Context) ([]*binding, error) {
	s := &r.shapes
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.loaded {
		if err := s.load(ctx, &r.engine); err != nil {
			return nil, err
		}
	}
	return slices.Clone(s.sorted), nil
}

// Backfilled notes that all of a model has come, by the backfill with this id.
func (r inspected) Backfilled(ctx context.Context, model, id string) error {
	if _, err := r.bindingOf(model); err != nil {
		return err
	}
	if err := r.tables.Backfilled(ctx, r.config.Queue, model, id); err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}
