package replica

import (
	"context"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// EqualThrough returns, by model, up to when the replica was proven to have all that its master
// committed, by the clock of the master's database (see package converge). A model that was never
// proven equal is not there.
func (r *Replica) EqualThrough(ctx context.Context) (map[string]time.Time, error) {
	if r.tables == nil {
		return nil, nil
	}
	noted, err := r.tables.Verifications(ctx)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	through := map[string]time.Time{}
	for _, v := range noted {
		if v.Queue == r.config.Queue && !v.Through.IsZero() {
			through[v.Model] = v.Through
		}
	}
	return through, nil
}

// Verified notes how the last comparison of a model with its master ended.
func (r inspected) Verified(ctx context.Context, v mirrored.Verification) error {
	if _, err := r.bindingOf(v.Model); err != nil {
		return err
	}
	err := r.tables.NoteVerification(ctx, applied.Verification{
		Queue: r.config.Queue, Model: v.Model, Outcome: v.Outcome, Through: v.Through,
		Ended: v.Ended, Found: v.Found,
	})
	if err != nil {
		return fmt.Errorf("replica: %w", err)
	}
	return nil
}
