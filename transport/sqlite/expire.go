package sqlite

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// expire drops up to pruneLimit messages, of all queues, that have expired, and the inboxes that
// have had no consumer for long. What waits in these expires soon.
func expire(ctx context.Context, tx transaction, now time.Time) (expired int64, err error) {
	_, err = tx.ExecContext(ctx, `DELETE FROM bindings WHERE inbox_used_at > 0 AND inbox_used_at <= ?1
		AND NOT EXISTS (SELECT 1 FROM consumers WHERE queue = bindings.queue AND leased_until >= ?2)`,
		now.Add(-inbox.Expires).UnixMilli(), now.UnixMilli())
	if err != nil {
		return 0, err
	}
	result, err := tx.ExecContext(ctx, `DELETE FROM messages WHERE id IN
		(SELECT id FROM messages INDEXED BY messages_by_expiry
			WHERE expires_at > 0 AND expires_at <= ? AND consumer = 0 LIMIT ?)`, now.UnixMilli(), pruneLimit)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// passOver drops messages that a consumer took and that have expired, and those at the head of its
// queue, and lets it come again: there may be more behind them.
func (c *consumer) passOver(
	ctx context.Context, tx transaction, expired []int64, now time.Time,
) error {
	if len(expired) == 0 {
		return nil
	}
	if err := remove(ctx, tx, expired); err != nil {
		return err
	}
	_, err := tx.ExecContext(ctx, `DELETE FROM messages
		WHERE expires_at > 0 AND expires_at <= ?1 AND id IN (
			SELECT id FROM messages WHERE consumer = 0 AND queue = ?2 ORDER BY id LIMIT ?3)`,
		now.UnixMilli(), c.queue, pruneLimit)
	select {
	case c.ready <- struct{}{}:
	default:
	}
	return err
}
