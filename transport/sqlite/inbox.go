package sqlite

import (
	"context"
	"time"
)

// bindInbox makes the inbox of a topic, unless it is there, and notes that it is in use.
func bindInbox(ctx context.Context, tx transaction, topic string) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO bindings (topic, queue, inbox_used_at)
		VALUES (?1, ?1, ?2)
		ON CONFLICT (topic, queue) DO UPDATE SET inbox_used_at = excluded.inbox_used_at`,
		topic, time.Now().UnixMilli())
	return err
}

// use notes that a consumer's inbox is in use, or was until now. One that was removed while the
// process was suspended is there again.
func (c *consumer) use(ctx context.Context, tx transaction) error {
	if !c.inbox {
		return nil
	}
	return c.bind(ctx, tx)
}
