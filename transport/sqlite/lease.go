package sqlite

import (
	"context"
	"time"
)

// renew keeps the lease, and buries those who did not.
func (c *consumer) renew(ctx context.Context) {
	ticker := time.NewTicker(c.lease / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		m := c.member.Load()
		err := c.file.write(ctx, made, quick, func(ctx context.Context, tx transaction) error {
			if tx.generation != m.generation {
				return nil // the next exchange enters the file
			}
			// A process that was suspended for too long has been buried meanwhile, and rises again.
			_, err := tx.ExecContext(ctx, `INSERT INTO consumers (id, leased_until, queue) VALUES (?, ?, ?)
				ON CONFLICT (id) DO UPDATE SET leased_until = excluded.leased_until`,
				m.id, c.leasedUntil(), c.queue)
			if err != nil {
				return err
			}
			if err := c.use(ctx, tx); err != nil {
				return err
			}
			return c.bury(ctx, tx)
		})
		if err != nil && ctx.Err() == nil {
			c.logger.WarnContext(ctx,
				"renewing the lease failed: after it ends, messages in work come to others, too",
				"queue", c.queue, "error", err)
		}
	}
}

func (c *consumer) leasedUntil() int64 { return time.Now().Add(c.lease).UnixMilli() }

// bury frees what has been taken by nobody alive. It asks for living consumers instead of dead
// ones, so that it also finds what a consumer took after it had been buried and before it rose.
func (c *consumer) bury(ctx context.Context, tx transaction) error {
	if _, err := tx.ExecContext(ctx, "DELETE FROM consumers WHERE leased_until < ?",
		time.Now().UnixMilli()); err != nil {
		return err
	}
	result, err := tx.ExecContext(ctx,
		"UPDATE messages SET consumer = 0 WHERE consumer > 0 AND consumer NOT IN (SELECT id FROM "+
			"consumers)")
	if err != nil {
		return err
	}
	freed, err := result.RowsAffected()
	if err != nil || freed == 0 {
		return err
	}
	c.logger.WarnContext(ctx, "messages of a crashed consumer come back", "count", freed, "file",
		c.file.path)
	return nil
}
