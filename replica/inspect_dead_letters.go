package replica

import (
	"context"
	"fmt"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// RetryDeadLetters takes dead letters through the gate again, after what made them fail was mended.
// What is applied, known or overtaken is removed, the rest stays. tell is called for each.
func (r inspected) RetryDeadLetters(
	ctx context.Context, f mirrored.DeadLetterFilter, tell func(mirrored.RetriedDeadLetter),
) error {
	const page = 500
	next := db.DeadLetterFilter{IDs: f.IDs, Model: f.Model, Key: f.Key, Before: f.Before}
	for {
		letters, err := r.tables.DeadLetters(ctx, next, page)
		if err != nil {
			return fmt.Errorf("replica: %w", err)
		}
		for _, letter := range letters {
			result, err := r.retryDeadLetter(ctx, letter)
			if err != nil {
				return err
			}
			tell(result)
		}
		if len(letters) < page {
			return nil
		}
		next.After = letters[page-1].ID
	}
}

// PurgeDeadLetters deletes dead letters for good, and returns how many.
func (r inspected) PurgeDeadLetters(
	ctx context.Context, f mirrored.DeadLetterFilter,
) (int64, error) {
	n, err := r.tables.RemoveDeadLetters(ctx,
		db.DeadLetterFilter{IDs: f.IDs, Model: f.Model, Key: f.Key, Before: f.Before})
	if err != nil {
		return 0, fmt.Errorf("replica: %w", err)
	}
	return n, nil
}

func (r inspected) retryDeadLetter(
	ctx context.Context, letter applied.StoredDeadLetter,
) (mirrored.RetriedDeadLetter, error) {
	retried := mirrored.RetriedDeadLetter{
		ID: letter.ID, Model: letter.Model, Key: letter.Key, Outcome: Returned.String(),
	}
	var m *envelope.Message
	if m, retried.Err = envelope.Decode(letter.Body, letter.Metadata); retried.Err != nil {
		return retried, nil //nolint:nilerr // it is in the result
	}
	results, err := r.Apply(ctx, []*envelope.Message{m})
	if err != nil {
		return retried, err
	}
	if retried.Outcome, retried.Err = results[0].Outcome.String(), results[0].Err; retried.Err != nil {
		return retried, nil //nolint:nilerr // it is in the result
	}
	if _, err = r.tables.RemoveDeadLetters(ctx,
		db.DeadLetterFilter{IDs: []int64{letter.ID}}); err != nil {
		return retried, fmt.Errorf("replica: dead letter %d was applied: %w", letter.ID, err)
	}
	return retried, nil
}
