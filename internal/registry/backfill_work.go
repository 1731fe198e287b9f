package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Take gives a backfill to whoever asks, until the lease ends. Of each queue the oldest is done
// first, and one at a time: they would share what the replica takes anyhow, and rows come before
// those that point to them, as they were asked for. queue is the one to work for; "" is any. ok is
// false where nothing is to be done.
func (r *Registry) Take(
	ctx context.Context, queue, owner string, lease time.Duration,
) (b Backfill, ok bool, err error) {
	open, err := r.readBackfills(ctx, r.DB(),
		" WHERE finished_at IS NULL ORDER BY queue, asked_at, model")
	if err != nil {
		return b, false, fmt.Errorf("look for backfills: %w", err)
	}
	for i, next := range open {
		if i > 0 && open[i-1].Queue == next.Queue || queue != "" && next.Queue != queue {
			continue
		}
		if ok, err = r.takeOne(ctx, next, owner, lease); err != nil || ok {
			next.Owner = owner
			return next, ok, err
		}
	}
	return b, false, nil
}

func (r *Registry) takeOne(
	ctx context.Context, b Backfill, owner string, lease time.Duration,
) (bool, error) {
	now := r.Dialect().Now()
	result, err := r.DB().ExecContext(ctx, "UPDATE ? SET owner = ?, expires_at = "+
		r.Dialect().After(now, lease)+
		", started_at = coalesce(started_at, "+now+
		") WHERE queue = ? AND model = ? AND id = ? AND finished_at IS NULL AND (owner IS NULL OR "+
		"expires_at <= "+now+")",
		r.Table("outbox_backfills"), owner, b.Queue, b.Model, b.ID)
	if err != nil {
		return false, fmt.Errorf("take the backfill of %s for %s: %w", b.Model, b.Queue, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// Move notes how far an owner is, and gives it the lease anew. mine is false where it is another's
// by now, or was cancelled: then it is to be left alone.
func (r *Registry) Move(
	ctx context.Context, b Backfill, lease time.Duration,
) (mine bool, err error) {
	now := r.Dialect().Now()
	return r.owned(ctx, b, "after_pk = ?, sent = ?, bad = ?, total = ?, error = ?, updated_at = "+
		now+
		", expires_at = "+r.Dialect().After(now, lease), b.progress()...)
}

// Finish ends a backfill.
func (r *Registry) Finish(ctx context.Context, b Backfill) (mine bool, err error) {
	now := r.Dialect().Now()
	return r.owned(ctx, b, "after_pk = ?, sent = ?, bad = ?, total = ?, error = ?, updated_at = "+
		now+
		", finished_at = "+now+", owner = NULL, expires_at = NULL", b.progress()...)
}

// Release lets another go on at once.
func (r *Registry) Release(ctx context.Context, b Backfill) error {
	_, err := r.owned(ctx, b, "owner = NULL, expires_at = NULL")
	return err
}

func (b Backfill) progress() []any {
	var after, total any
	if b.After != nil {
		after = string(b.After)
	}
	if b.Total >= 0 {
		total = b.Total
	}
	return []any{after, b.Sent, b.Bad, total, b.Error}
}

func (r *Registry) owned(
	ctx context.Context, b Backfill, set string, args ...any,
) (mine bool, err error) {
	args = append([]any{r.Table("outbox_backfills")}, args...)
	result, err := r.DB().ExecContext(ctx, "UPDATE ? SET "+set+
		" WHERE queue = ? AND model = ? AND id = ? AND owner = ? AND finished_at IS NULL",
		append(args, b.Queue, b.Model, b.ID, b.Owner)...)
	if err != nil {
		return false, fmt.Errorf("note how far the backfill of %s for %s is: %w", b.Model, b.Queue,
			err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// Cancel ends a backfill that is under way, and says whether there was one. What was sent stays
// sent.
func (r *Registry) Cancel(ctx context.Context, queue, model string) (was bool, err error) {
	result, err := r.DB().ExecContext(ctx,
		"DELETE FROM ? WHERE queue = ? AND model = ? AND finished_at IS NULL",
		r.Table("outbox_backfills"), queue, model)
	if err != nil {
		return false, fmt.Errorf("cancel the backfill of %s for %s: %w", model, queue, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// restartBackfills has those of a queue begin anew whose messages were lost with the queue. Whether
// one that is over had come, nobody knows: it counts as another one, so who asks again gets it.
func (r *Registry) restartBackfills(ctx context.Context, tx bun.IDB, queue string) error {
	table := r.Table("outbox_backfills")
	_, err := tx.ExecContext(ctx, `
		UPDATE ? SET after_pk = NULL, sent = 0, bad = 0, owner = NULL, expires_at = NULL
		WHERE queue = ? AND finished_at IS NULL`, table, queue)
	if err == nil {
		_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE queue = ? AND finished_at IS NOT NULL",
			table, queue)
	}
	return err
}
