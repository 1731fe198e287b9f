package webhooks

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// tidyEvery is how often what is no longer needed is looked for.
const tidyEvery = time.Minute

// tidy cancels what waits for subscribers that are gone, and forgets history that is too old.
func (s *Service) tidy(ctx context.Context) error {
	now := s.config.now()
	if now.Sub(s.tidied).Abs() < tidyEvery {
		return nil
	}
	// An order may have changed while its subscription ended, and seen it still there.
	subscribed := s.db.NewSelect().Model((*Subscription)(nil)).Column("id")
	_, err := s.db.NewUpdate().Model((*Delivery)(nil)).Set("state = ?", Cancelled).
		Where("state = ?", Pending).Where("subscription_id NOT IN (?)", subscribed).Exec(ctx)
	if err != nil {
		return fmt.Errorf("cancel deliveries to who is gone: %w", err)
	}
	old := now.Add(-s.config.Keep)
	err = s.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		tooOld := tx.NewSelect().Model((*Delivery)(nil)).Column("id").
			Where("state <> ?", Pending).Where("created_at < ?", old)
		_, err := tx.NewDelete().Model((*Attempt)(nil)).Where("delivery_id IN (?)", tooOld).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewDelete().Model((*Delivery)(nil)).
			Where("state <> ?", Pending).Where("created_at < ?", old).Exec(ctx)
		if err != nil {
			return err
		}
		_, err = tx.NewDelete().Model((*news)(nil)).Where("created_at < ?", old).
			Where("message_id <> '' OR subscription_id NOT IN (?)", subscribed).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("forget old history: %w", err)
	}
	s.tidied = now
	return nil
}
