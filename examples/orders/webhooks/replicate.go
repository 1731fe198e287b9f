package webhooks

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/replica"
)

// event is what subscribers are sent.
type event struct {
	Action Action `json:"action"`
	Order  *Order `json:"order"`
}

// orderChanged keeps the copy of an order and notes whom to tell, in the transaction that marks the
// message as done: it happens once, or not at all.
func (s *Service) orderChanged(ctx context.Context, tx bun.Tx, change replica.Event[Order]) error {
	before := &Order{ID: change.Data.ID}
	err := tx.NewSelect().Model(before).WherePK().Scan(ctx)
	known := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("read copy of order %d: %w", before.ID, err)
	}
	if change.Signal == envelope.Delete {
		if !known {
			return nil
		}
		if _, err := tx.NewDelete().Model(before).WherePK().Exec(ctx); err != nil {
			return fmt.Errorf("delete copy of order %d: %w", before.ID, err)
		}
		before.Revision = change.Revision
		return s.notify(ctx, tx, event{Deleted, before}, change)
	}
	after := &change.Data
	// No upsert: each database writes its own, and the gate lets one message of a key pass at a time.
	if known {
		_, err = tx.NewUpdate().Model(after).WherePK().Exec(ctx)
	} else {
		_, err = tx.NewInsert().Model(after).Exec(ctx)
	}
	if err != nil {
		return fmt.Errorf("keep copy of order %d: %w", after.ID, err)
	}
	switch {
	case change.Sync && known:
		return nil // a repair of this copy is no news to anybody else
	case known:
		return s.notify(ctx, tx, event{Updated, after}, change)
	default:
		return s.notify(ctx, tx, event{Created, after}, change)
	}
}

// isNewsTo says whether a subscriber is told of an event. An order that is not here yet may come in
// a fill, or a repair, before its own message does, which is then a repetition that nobody sees. It
// is news to those who had subscribed when it was created.
func (e event) isNewsTo(subscriber Subscription, sync bool) bool {
	return !sync || !subscriber.CreatedAt.After(e.Order.CreatedAt)
}

// notify queues one delivery per subscriber, or notes the action for its summary.
func (s *Service) notify(
	ctx context.Context, tx bun.Tx, event event, change replica.Event[Order],
) error {
	var subscribers []Subscription
	if err := tx.NewSelect().Model(&subscribers).Order("id").Scan(ctx); err != nil {
		return fmt.Errorf("read subscriptions: %w", err)
	}
	var each []Subscription
	var later []news
	now := s.config.now()
	for _, subscriber := range subscribers {
		if !event.isNewsTo(subscriber, change.Sync) {
			continue
		}
		if subscriber.Daily.At == "" {
			each = append(each, subscriber)
			continue
		}
		later = append(later, news{
			SubscriptionID: subscriber.ID, OrderID: event.Order.ID, Action: event.Action, CreatedAt: now,
		})
	}
	if len(later) > 0 {
		if _, err := tx.NewInsert().Model(&later).Exec(ctx); err != nil {
			return fmt.Errorf("keep order %d for summaries: %w", event.Order.ID, err)
		}
	}
	_, err := queue(ctx, tx, event, each, change.Headers["traceparent"], now)
	return err
}

// queue queues one delivery per subscriber.
func queue(
	ctx context.Context, tx bun.Tx, event event, subscribers []Subscription, trace string,
	now time.Time,
) ([]Delivery, error) {
	if len(subscribers) == 0 {
		return nil, nil
	}
	body, err := json.Marshal(event)
	if err != nil {
		return nil, replica.Permanent(fmt.Errorf("write order %d as JSON: %w", event.Order.ID, err))
	}
	deliveries := make([]Delivery, len(subscribers))
	for i, subscriber := range subscribers {
		deliveries[i] = Delivery{
			SubscriptionID: subscriber.ID, OrderID: event.Order.ID, Action: event.Action,
			MessageID: newMessageID(), URL: subscriber.URL, Body: body,
			State: Pending, NextAt: now, CreatedAt: now, TraceParent: trace,
		}
	}
	if _, err := tx.NewInsert().Model(&deliveries).Exec(ctx); err != nil {
		return nil, fmt.Errorf("queue deliveries of order %d: %w", event.Order.ID, err)
	}
	return deliveries, nil
}
