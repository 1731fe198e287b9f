package webhooks

import (
	"context"
	"fmt"
	"net/http"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/internal/web"
)

// trigger answers POST /orders/{id}/trigger?subscription=3: the order's copy, as it is now, goes to
// that subscriber, or to all who are told of every action.
func (s *Service) trigger(r *http.Request) (web.Response, error) {
	values, err := web.Parameters(r, "subscription")
	if err != nil {
		return web.Response{}, err
	}
	id, err := web.ID("id", r.PathValue("id"))
	if err != nil {
		return web.Response{}, err
	}
	var only int64
	if values.Has("subscription") {
		if only, err = web.ID("subscription", values.Get("subscription")); err != nil {
			return web.Response{}, err
		}
	}
	var queued []Delivery
	err = s.inTx(r.Context(), func(ctx context.Context, tx bun.Tx) error {
		queued, err = s.triggerOne(ctx, tx, id, only)
		return err
	})
	if err != nil {
		return web.Response{}, err
	}
	for i := range queued {
		queued[i].Body = nil
	}
	return web.Response{Status: http.StatusAccepted, Body: deliveryList{Deliveries: queued}}, nil
}

func (s *Service) triggerOne(ctx context.Context, tx bun.Tx, id, only int64) ([]Delivery, error) {
	// The write locks the copy: a change of the order that comes now is told of after this.
	_, err := tx.NewUpdate().Model((*Order)(nil)).Set("id = id").Where("id = ?", id).Exec(ctx)
	if err != nil {
		return nil, fmt.Errorf("lock copy of order %d: %w", id, err)
	}
	var copies []Order
	if err := tx.NewSelect().Model(&copies).Where("id = ?", id).Scan(ctx); err != nil {
		return nil, fmt.Errorf("read copy of order %d: %w", id, err)
	}
	if len(copies) == 0 {
		return nil, fmt.Errorf("order %d: %w", id, web.ErrNotFound)
	}
	var subscribers []Subscription
	if only > 0 {
		subscriber, err := subscriptionOf(ctx, tx, only)
		if err != nil {
			return nil, err
		}
		subscribers = append(subscribers, *subscriber)
	} else {
		err := tx.NewSelect().Model(&subscribers).Where("daily_at = ''").Order("id").Scan(ctx)
		if err != nil {
			return nil, fmt.Errorf("read subscriptions: %w", err)
		}
	}
	if len(subscribers) == 0 {
		return nil, web.ConflictError("nobody has subscribed to every action")
	}
	return queue(ctx, tx, event{Triggered, &copies[0]}, subscribers, "", s.config.now())
}

// redeliver answers POST /deliveries/{id}/redeliver: it is posted again, under the id it had.
func (s *Service) redeliver(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	err = s.inTx(r.Context(), func(ctx context.Context, tx bun.Tx) error {
		n, err := s.again(ctx, tx.NewUpdate().
			Where("id = ?", id).Where("state IN (?, ?)", Failed, Delivered))
		if err != nil || n > 0 {
			return err
		}
		return notAgain(ctx, tx, id)
	})
	return web.Response{Status: http.StatusAccepted, Body: redelivered{1}}, err
}

// redeliverFailed answers POST /subscriptions/{id}/redeliver: everything that failed is posted
// again.
func (s *Service) redeliverFailed(r *http.Request) (web.Response, error) {
	id, err := web.PathID(r)
	if err != nil {
		return web.Response{}, err
	}
	if _, err := subscriptionOf(r.Context(), s.db, id); err != nil {
		return web.Response{}, err
	}
	var n int64
	err = s.inTx(r.Context(), func(ctx context.Context, tx bun.Tx) error {
		n, err = s.again(ctx, tx.NewUpdate().
			Where("subscription_id = ?", id).Where("state = ?", Failed))
		return err
	})
	return web.Response{Status: http.StatusAccepted, Body: redelivered{n}}, err
}

type redelivered struct {
	Redelivered int64 `json:"redelivered"`
}

// again makes deliveries pending once more, with all their attempts, unless their subscription is
// gone.
func (s *Service) again(ctx context.Context, update *bun.UpdateQuery) (int64, error) {
	subscribed := s.db.NewSelect().Model((*Subscription)(nil)).Column("id")
	result, err := update.Model((*Delivery)(nil)).
		Set("state = ?", Pending).Set("tries = 0").Set("next_at = ?", s.config.now()).
		Where("subscription_id IN (?)", subscribed).Exec(ctx)
	if err != nil {
		return 0, fmt.Errorf("deliver again: %w", err)
	}
	return result.RowsAffected()
}

// notAgain says why a delivery was not made pending.
func notAgain(ctx context.Context, tx bun.Tx, id int64) error {
	var found []Delivery
	err := tx.NewSelect().Model(&found).Column("state", "subscription_id").
		Where("id = ?", id).Scan(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("read delivery %d: %w", id, err)
	case len(found) == 0:
		return fmt.Errorf("delivery %d: %w", id, web.ErrNotFound)
	case found[0].State == Pending:
		return web.ConflictError(fmt.Sprintf("delivery %d is pending already", id))
	default:
		return web.ConflictError(fmt.Sprintf(
			"delivery %d: its subscription %d is gone", id, found[0].SubscriptionID))
	}
}
