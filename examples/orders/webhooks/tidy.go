package webhooks

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

const (
	// tidyEvery is how often what is no longer needed is looked for.
	tidyEvery = time.Minute
	// tidyBatch bounds one transaction.
	tidyBatch = 500
)

// tidy cancels what waits for subscribers that are gone, and forgets history that is too
// old. It reads first and writes by primary key: a statement that looks for its rows
// locks what it passes on its way, in another order than a delivery on its way does, and
// then one of the two is given up.
func (s *Service) tidy(ctx context.Context) error {
	now := s.config.now()
	if now.Sub(s.tidied).Abs() < tidyEvery {
		return nil
	}
	old := now.Add(-s.config.Keep)
	for {
		orphans, err := s.cancelOrphans(ctx)
		if err != nil {
			return fmt.Errorf("cancel deliveries to who is gone: %w", err)
		}
		forgotten, err := s.forgetDeliveries(ctx, old)
		if err != nil {
			return fmt.Errorf("forget old history: %w", err)
		}
		told, err := s.forgetNews(ctx, old)
		if err != nil {
			return fmt.Errorf("forget old news: %w", err)
		}
		if max(orphans, forgotten, told) < tidyBatch {
			s.tidied = now
			return nil
		}
	}
}

// cancelOrphans is for orders that changed while a subscription ended, and saw it still there.
func (s *Service) cancelOrphans(ctx context.Context) (int, error) {
	ids, err := someIDs(ctx, s.db.NewSelect().Model((*Delivery)(nil)).
		Where("state = ?", Pending).Where("subscription_id NOT IN (?)", s.subscribed()))
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return len(ids), s.inTx(ctx, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewUpdate().Model((*Delivery)(nil)).Set("state = ?", Cancelled).
			Where("id IN (?)", bun.List(ids)).Where("state = ?", Pending).Exec(ctx)
		return err
	})
}

func (s *Service) forgetDeliveries(ctx context.Context, before time.Time) (int, error) {
	ids, err := someIDs(ctx, s.db.NewSelect().Model((*Delivery)(nil)).
		Where("state <> ?", Pending).Where("created_at < ?", before))
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	attempts, err := someIDs(ctx, s.db.NewSelect().Model((*Attempt)(nil)).
		Where("delivery_id IN (?)", bun.List(ids)))
	if err != nil {
		return 0, err
	}
	found := len(ids)
	if len(attempts) == tidyBatch { // first the attempts, as many as there are
		found, ids = tidyBatch, nil
	}
	err = s.inTx(ctx, func(ctx context.Context, tx bun.Tx) error {
		if len(attempts) > 0 {
			_, err := tx.NewDelete().Model((*Attempt)(nil)).Where("id IN (?)", bun.List(attempts)).Exec(ctx)
			if err != nil {
				return err
			}
		}
		if len(ids) == 0 {
			return nil
		}
		_, err := tx.NewDelete().Model((*Delivery)(nil)).
			Where("id IN (?)", bun.List(ids)).Where("state <> ?", Pending).Exec(ctx)
		return err
	})
	return found, err
}

func (s *Service) forgetNews(ctx context.Context, before time.Time) (int, error) {
	ids, err := someIDs(ctx, s.db.NewSelect().Model((*news)(nil)).Where("created_at < ?", before).
		Where("message_id <> '' OR subscription_id NOT IN (?)", s.subscribed()))
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return len(ids), s.inTx(ctx, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewDelete().Model((*news)(nil)).Where("id IN (?)", bun.List(ids)).Exec(ctx)
		return err
	})
}

func (s *Service) subscribed() *bun.SelectQuery {
	return s.db.NewSelect().Model((*Subscription)(nil)).Column("id")
}

func someIDs(ctx context.Context, query *bun.SelectQuery) (ids []int64, err error) {
	err = query.Column("id").Order("id").Limit(tidyBatch).Scan(ctx, &ids)
	return ids, err
}
