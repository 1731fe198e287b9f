package queue

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// Leave hands lanes back and signs the relay off, so that others take over at once instead of after
// the ttl. Lanes that are not the relay's any more under the tenures that lanes names stay: a
// request of a process that was killed may come late, when another one has its name.
func (q *Queue) Leave(ctx context.Context, relay string, lanes []Lane) error {
	err := q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		for tenure, numbers := range lanesByTenure(lanes) {
			_, err := tx.ExecContext(ctx, "UPDATE ? SET owner = NULL, expires_at = NULL "+
				"WHERE owner = ? AND epoch = ? AND nonce = ? AND lane IN (?)", q.Table("outbox_lanes"),
				relay, tenure.Epoch, tenure.Nonce, bun.List(numbers))
			if err != nil {
				return err
			}
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE id = ? AND NOT EXISTS "+
			"(SELECT 1 FROM ? WHERE owner = ?)", q.Table("outbox_relays"), relay,
			q.Table("outbox_lanes"), relay)
		return err
	})
	if err != nil {
		return fmt.Errorf("hand back lanes: %w", err)
	}
	q.timeline.left(relay)
	return nil
}

// LeaveAll hands back every lane that is owned under a name, and signs it off.
func (q *Queue) LeaveAll(ctx context.Context, relay string) error {
	err := q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		if err := q.giveUp(ctx, tx, relay); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE id = ?", q.Table("outbox_relays"), relay)
		return err
	})
	if err != nil {
		return fmt.Errorf("hand back lanes: %w", err)
	}
	q.timeline.left(relay)
	return nil
}
