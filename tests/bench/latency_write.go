package main

import (
	"context"
	"encoding/json"
	"runtime"
	"strconv"
	"sync"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"
)

// write commits transactions at a steady rate, however long each takes, and
// returns when each had committed.
func (l *latencyBench) write(
	ctx context.Context, rate int, way latencyWay, duration time.Duration,
) (committed map[string]time.Time, err error) {
	// Few a core: more only make each other wait, for both ways, and what is
	// measured then is the scheduler.
	writers := 4 * runtime.GOMAXPROCS(0)
	var mu sync.Mutex
	committed = map[string]time.Time{}
	work, ctx := errgroup.WithContext(ctx)
	rows := make(chan plainOrder)
	for range writers {
		work.Go(func() error {
			for row := range rows {
				at, err := l.transaction(ctx, row, way)
				if err != nil {
					return err
				}
				mu.Lock()
				committed[strconv.FormatInt(row.ID, 10)] = at
				mu.Unlock()
			}
			return nil
		})
	}
	work.Go(func() error {
		defer close(rows)
		start := time.Now()
		for n := range int(duration.Seconds() * float64(rate)) {
			at := start.Add(time.Duration(n) * time.Second / time.Duration(rate))
			if err := pause(ctx, time.Until(at)); err != nil {
				return err
			}
			l.next++
			select {
			case rows <- newOrder(l.next):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	return committed, work.Wait()
}

func (l *latencyBench) transaction(
	ctx context.Context, row plainOrder, way latencyWay,
) (committed time.Time, err error) {
	if way.byHand {
		err = l.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewInsert().Model(&row).Exec(ctx)
			return err
		})
		committed = time.Now()
		if err != nil {
			return committed, err
		}
		body, err := json.Marshal(row)
		if err != nil {
			return committed, err
		}
		message := amqp091.Publishing{
			ContentType: "text/plain", DeliveryMode: amqp091.Persistent, Body: body,
			Headers: amqp091.Table{"cqrs_key": strconv.FormatInt(row.ID, 10)},
		}
		_, err = l.channel.PublishWithDeferredConfirm(l.exchange, "order", false, false, message)
		return committed, err
	}
	box := l.box(way)
	tracked := trackedOrder{
		ID: row.ID, Customer: row.Customer, Status: row.Status, Total: row.Total, Note: row.Note,
	}
	err = box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&tracked).Exec(ctx)
		return err
	})
	return time.Now(), err
}
