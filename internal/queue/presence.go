package queue

import (
	"context"
	"fmt"

	"github.com/uptrace/bun"
)

// Others says whether other relays are at work.
func (q *Queue) Others(ctx context.Context, relay string) (others bool, err error) {
	if others, err = q.others(ctx, q.DB(), relay); err != nil {
		return false, fmt.Errorf("look for other relays: %w", err)
	}
	return others, nil
}

func (q *Queue) others(ctx context.Context, db bun.IDB, relay string) (others bool, err error) {
	err = db.QueryRowContext(ctx,
		"SELECT EXISTS (SELECT 1 FROM ? WHERE id NOT IN (?, ?) AND expires_at >= "+q.dialect.Now()+
			")",
		q.Table("outbox_relays"), relay, changer).Scan(&others)
	return others, err
}

// Withdraw signs a relay off if others are at work: they share out its lanes as soon as these run
// out. Until then the lanes are its own, so that what it has published is with the broker, or lost,
// before anybody publishes after it (P4). Two that withdraw at once may leave nobody at work.
func (q *Queue) Withdraw(ctx context.Context, relay string) (others bool, err error) {
	if others, err = q.Others(ctx, relay); err != nil || !others {
		return false, err
	}
	return true, q.SignOff(ctx, relay)
}

// SignOff signs a relay off, and leaves its lanes to run out.
func (q *Queue) SignOff(ctx context.Context, relay string) error {
	if _, err := q.DB().ExecContext(ctx, "DELETE FROM ? WHERE id = ?", q.Table("outbox_relays"),
		relay); err != nil {
		return fmt.Errorf("sign the relay off: %w", err)
	}
	return nil
}
