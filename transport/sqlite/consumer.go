package sqlite

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport/internal/delivery"
)

// consumer is a subscription's side of the queue: it takes messages under a lease that it keeps renewing.
type consumer struct {
	id     int64
	file   *file
	queue  string
	lease  time.Duration
	logger *slog.Logger
	ready  chan struct{}

	stopRenewing context.CancelFunc
	renewing     sync.WaitGroup
}

// newConsumer makes the queue, if it is new, binds it to the topics, and joins its consumers.
func newConsumer(ctx context.Context, f *file, config Config, queue string, topics []string) (*consumer, error) {
	c := &consumer{file: f, queue: queue, lease: config.Lease, logger: config.Logger, ready: make(chan struct{}, 1)}
	err := f.write(ctx, durable, func(ctx context.Context, tx transaction) error {
		for _, topic := range topics {
			if err := bind(ctx, tx, queue, topic); err != nil {
				return err
			}
		}
		row := tx.QueryRowContext(ctx, "INSERT INTO consumers (leased_until) VALUES (?) RETURNING id", c.leasedUntil())
		if err := row.Scan(&c.id); err != nil {
			return err
		}
		return c.bury(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	f.join(c)
	renew, stop := context.WithCancel(context.WithoutCancel(ctx)) // ends with Leave, after the last handler
	c.stopRenewing = stop
	c.renewing.Go(func() { c.renew(renew) })
	return c, nil
}

func (c *consumer) Ready() <-chan struct{} { return c.ready }

func (c *consumer) Exchange(
	ctx context.Context, acked, returned []int64, room int,
) (taken []delivery.Taken, err error) {
	if len(acked)+len(returned) == 0 {
		// Looking costs no lock. Most consumers that are woken find that another one was faster, or another queue meant.
		if found, err := c.waiting(ctx); err != nil || !found {
			return nil, err
		}
	}
	err = c.file.write(ctx, quick, func(ctx context.Context, tx transaction) error {
		if err := remove(ctx, tx, acked); err != nil {
			return err
		}
		if err := c.putBack(ctx, tx, returned); err != nil {
			return err
		}
		taken, err = c.take(ctx, tx, room)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(returned) > 0 {
		c.file.wake()
	}
	return taken, nil
}

// Leave gives everything back and ends the lease. Should it fail, the lease runs out and another consumer does it.
func (c *consumer) Leave(ctx context.Context, acked []int64) error {
	c.file.leave(c)
	c.stopRenewing()
	c.renewing.Wait()
	err := c.file.write(ctx, quick, func(ctx context.Context, tx transaction) error {
		if err := remove(ctx, tx, acked); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE messages SET consumer = 0 WHERE consumer = ?", c.id); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "DELETE FROM consumers WHERE id = ?", c.id)
		return err
	})
	c.file.wake()
	return err
}

func (c *consumer) waiting(ctx context.Context) (found bool, err error) {
	err = c.file.reader.QueryRowContext(context.WithoutCancel(ctx),
		"SELECT EXISTS (SELECT 1 FROM messages WHERE consumer = 0 AND queue = ?)", c.queue).Scan(&found)
	return found, c.file.unavailable(err)
}

func remove(ctx context.Context, tx transaction, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	return tx.run(ctx, tx.remove, list(ids))
}

func (c *consumer) putBack(ctx context.Context, tx transaction, ids []int64) error {
	if len(ids) == 0 {
		return nil
	}
	return tx.run(ctx, tx.putBack, c.id, list(ids))
}

func (c *consumer) take(ctx context.Context, tx transaction, room int) (taken []delivery.Taken, err error) {
	if room == 0 {
		return nil, nil
	}
	take := tx.StmtContext(ctx, tx.take)
	defer take.Close()
	rows, err := take.QueryContext(ctx, c.id, c.queue, room)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		msg := message.NewMessage("", nil)
		t := delivery.Taken{Message: msg}
		var metadata []byte
		if err := rows.Scan(&t.ID, &msg.UUID, &metadata, &msg.Payload); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(metadata, &msg.Metadata); err != nil {
			return nil, fmt.Errorf("metadata of message %d: %w", t.ID, err)
		}
		taken = append(taken, t)
	}
	// RETURNING promises no order.
	slices.SortFunc(taken, func(a, b delivery.Taken) int { return cmp.Compare(a.ID, b.ID) })
	return taken, rows.Err()
}

func list(ids []int64) string {
	text, _ := json.Marshal(ids) // cannot fail for numbers
	return string(text)
}
