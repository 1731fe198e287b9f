package webhooks

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/uptrace/bun"
)

// queues deliver what is pending: one queue per subscriber, each with a goroutine of its own while
// something is due. One that hangs keeps only its own waiting. How many there are is bounded by
// Config.MaxSubscriptions.
//
// A crash between a post and its record makes a subscriber hear of it twice: the id tells it so.
type queues struct {
	*Service
	client *client
	active map[int64]bool // the subscribers that are being served
	mu     sync.Mutex
	group  sync.WaitGroup
}

// troubled is the pause after an error of the database.
const troubled = time.Second

// Deliver posts what is pending, and queues the summaries that are due, until ctx ends.
func (s *Service) Deliver(ctx context.Context) error {
	q := &queues{Service: s, client: newClient(s.config), active: map[int64]bool{}}
	defer q.client.CloseIdleConnections()
	defer q.group.Wait()
	for ctx.Err() == nil {
		pause := s.config.Poll
		err := errors.Join(s.summarise(ctx), q.serve(ctx), s.tidy(ctx))
		if err != nil && ctx.Err() == nil {
			slog.WarnContext(ctx, "deliveries wait for the database", "error", err)
			pause = max(pause, troubled)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return nil
}

// serve begins with the queues in which something is due.
func (q *queues) serve(ctx context.Context) error {
	var due []Subscription
	err := q.db.NewSelect().Model(&due).
		Where("EXISTS (?)", q.due(q.db.NewSelect().Model((*Delivery)(nil)).ColumnExpr("1")).
			Where("delivery.subscription_id = subscription.id")).Scan(ctx)
	if err != nil {
		return fmt.Errorf("find subscribers with due deliveries: %w", err)
	}
	for _, subscriber := range due {
		if !q.enter(subscriber.ID) {
			continue
		}
		q.group.Go(func() {
			defer q.leave(subscriber.ID)
			if err := q.drain(ctx, subscriber); err != nil && ctx.Err() == nil {
				slog.WarnContext(ctx, "deliveries wait for the database",
					"subscription", subscriber.ID, "error", err)
			}
		})
	}
	return nil
}

func (q *queues) enter(id int64) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.active[id] {
		return false
	}
	q.active[id] = true
	return true
}

func (q *queues) leave(id int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.active, id)
}

// drain posts a subscriber's deliveries, one after the other, until nothing is due.
func (q *queues) drain(ctx context.Context, subscriber Subscription) error {
	for ctx.Err() == nil {
		delivery, err := q.claim(ctx, subscriber.ID)
		if err != nil || delivery == nil {
			return err
		}
		attempt := q.client.post(ctx, delivery, subscriber.Secret)
		// The post has happened: it is recorded even if the service is asked to stop right now.
		recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.config.Timeout)
		if ctx.Err() != nil && attempt.Error != "" {
			// It was cut short by the end of the service, which is not the subscriber's fault.
			err = q.release(recording, delivery)
		} else {
			err = q.record(recording, delivery, attempt)
		}
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// due adds what makes a delivery due. An order's later actions wait for its earlier ones.
func (q *queues) due(query *bun.SelectQuery) *bun.SelectQuery {
	return query.Where("delivery.state = ?", Pending).Where("delivery.next_at <= ?", q.config.now()).
		Where(`NOT EXISTS (SELECT 1 FROM webhook_deliveries AS e WHERE e.order_id = delivery.order_id
			AND e.subscription_id = delivery.subscription_id AND e.id < delivery.id
			AND e.state = ?)`, Pending)
}

// claim takes a subscriber's oldest delivery that is due, by moving it into the future: should this
// process die, another attempt follows then.
func (q *queues) claim(ctx context.Context, subscriptionID int64) (*Delivery, error) {
	var due Delivery
	err := q.due(q.db.NewSelect().Model(&due)).Where("delivery.subscription_id = ?", subscriptionID).
		OrderExpr("delivery.next_at, delivery.id").Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil //nolint:nilnil // nothing is due
	}
	if err != nil {
		return nil, fmt.Errorf("find a delivery that is due: %w", err)
	}
	// The condition stands again: another process may have been quicker, and then the row is due no
	// more.
	at := q.config.now()
	var claimed int64
	err = q.inTx(ctx, func(ctx context.Context, tx bun.Tx) error {
		result, err := tx.NewUpdate().Model(&due).Set("next_at = ?", at.Add(3*q.config.Timeout)).
			WherePK().Where("state = ?", Pending).Where("next_at <= ?", at).Exec(ctx)
		if err == nil {
			claimed, err = result.RowsAffected()
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim delivery %d: %w", due.ID, err)
	}
	if claimed == 0 {
		return nil, nil //nolint:nilnil // the next look finds what is due then
	}
	return &due, nil
}

// release gives a claimed delivery back.
func (q *queues) release(ctx context.Context, delivery *Delivery) error {
	_, err := q.db.NewUpdate().Model(delivery).Set("next_at = ?", q.config.now()).WherePK().
		Where("state = ?", Pending).Exec(ctx)
	if err != nil {
		return fmt.Errorf("give delivery %d back: %w", delivery.ID, err)
	}
	return nil
}

// record writes the attempt into the history and decides what becomes of the delivery.
func (q *queues) record(ctx context.Context, delivery *Delivery, attempt *Attempt) error {
	delivery.Tries++
	switch {
	case attempt.Error == "":
		delivery.State = Delivered
	case delivery.Tries >= q.config.MaxAttempts:
		delivery.State = Failed
	default:
		// Counted from the attempt's beginning: how long it took is nobody's business.
		delivery.NextAt = attempt.At.Add(q.config.Backoff << min(delivery.Tries-1, maxDoublings))
	}
	err := q.inTx(ctx, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.NewInsert().Model(attempt).Exec(ctx); err != nil {
			return err
		}
		// Not if it was cancelled meanwhile.
		_, err := tx.NewUpdate().Model(delivery).Column("state", "tries", "next_at").WherePK().
			Where("state = ?", Pending).Exec(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("record attempt of delivery %d: %w", delivery.ID, err)
	}
	return nil
}
