package applied

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// Backfill is a model that the replica asks its master to send it whole.
type Backfill struct {
	Model, ID string
	// Done says that all of it has come.
	Done bool
}

// WantBackfill notes that a queue asks for all of a model, unless it did so before.
func (s *Tables) WantBackfill(ctx context.Context, queue, model, id string) error {
	// Whoever is second changes nothing: all processes ask for the one of the first.
	_, err := s.DB().ExecContext(ctx,
		"INSERT INTO ? (queue, model, id, asked_at) VALUES (?, ?, ?, "+
			s.dialect.Now()+")"+s.Upsert("queue, model",
			"model"), s.Table("replica_backfills"), queue, model, id)
	if err != nil {
		return fmt.Errorf("note that a backfill of %s is wanted: %w", model, err)
	}
	return nil
}

// Backfilled notes that all of a model has come: by the backfill that the queue asked for, or where
// it asked for none. Of another one it does not know whether all of it came here.
func (s *Tables) Backfilled(ctx context.Context, queue, model, id string) error {
	now, table := s.dialect.Now(), s.Table("replica_backfills")
	err := s.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		if _, err := tx.ExecContext(ctx,
			"INSERT INTO ? (queue, model, id, asked_at) VALUES (?, ?, ?, "+now+")"+
				s.Upsert("queue, model", "model"), table, queue, model, id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "UPDATE ? SET done_at = "+now+
			" WHERE queue = ? AND model = ? AND id = ? AND done_at IS NULL", table, queue, model, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("note that %s has been backfilled: %w", model, err)
	}
	return nil
}

// Backfills returns what a queue has asked for, by model.
func (s *Tables) Backfills(ctx context.Context, queue string) (map[string]Backfill, error) {
	var rows []struct {
		Model, ID string
		Done      bool
	}
	err := s.DB().NewRaw("SELECT model, id, done_at IS NOT NULL AS done FROM ? WHERE queue = ?",
		s.Table("replica_backfills"), queue).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("read the backfills that were asked for: %w", err)
	}
	all := make(map[string]Backfill, len(rows))
	for _, r := range rows {
		all[r.Model] = Backfill(r)
	}
	return all, nil
}
