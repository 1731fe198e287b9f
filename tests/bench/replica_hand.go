package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/transport"
)

// watched tells of every ack.
type watched struct {
	transport.BatchSubscriber
	acked func(time.Time, []byte)
}

func (w *watched) SubscribeBatch(
	ctx context.Context, topics []string, window int,
) (transport.Subscription, error) {
	s, err := w.BatchSubscriber.SubscribeBatch(ctx, topics, window)
	settle := s.Settle
	s.Settle = func(acked, returned []*message.Message) {
		settle(acked, returned)
		now := time.Now()
		for _, msg := range acked {
			w.acked(now, msg.Payload)
		}
	}
	return s, err
}

// The hand-written consumers: what a team writes on amqp091 and SQL.

type handMessage struct {
	Data struct {
		ID       int64  `json:"id"`
		Customer string `json:"customer"`
		Status   string `json:"status"`
		Total    int64  `json:"total"`
		Note     string `json:"note"`
		Revision int64  `json:"cqrs_revision"`
	} `json:"instance_data"`
}

// onChannels gives each worker a connection with deliveries.
func (b *replicaBench) onChannels(
	ctx context.Context, c consumption, prefetch int,
	work func(context.Context, *amqp091.Channel, <-chan amqp091.Delivery) error,
) error {
	group, ctx := errgroup.WithContext(ctx)
	for range c.workers {
		group.Go(func() (err error) {
			conn, err := amqp091.Dial(b.address)
			if err != nil {
				return errors.New("RabbitMQ cannot be reached")
			}
			defer func() { err = errors.Join(err, conn.Close()) }()
			channel, err := conn.Channel()
			if err != nil {
				return err
			}
			if err := channel.Qos(prefetch, 0, false); err != nil {
				return err
			}
			deliveries, err := channel.ConsumeWithContext(context.WithoutCancel(ctx), c.queue, "",
				false, false, false, false, nil)
			if err != nil {
				return err
			}
			return work(ctx, channel, deliveries)
		})
	}
	return group.Wait()
}

// byOne does it right and one by one: a transaction with a gate, the row, commit, ack.
func (b *replicaBench) byOne(ctx context.Context, c consumption) error {
	return b.onChannels(ctx, c, 100, func(
		ctx context.Context, _ *amqp091.Channel, deliveries <-chan amqp091.Delivery,
	) error {
		return b.each(ctx, c, deliveries, func(m handMessage) error {
			return b.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.Tx.ExecContext(ctx, `
					INSERT INTO bench_processed AS p (id, revision) VALUES ($1, $2)
					ON CONFLICT (id) DO UPDATE SET revision = excluded.revision
					WHERE p.revision < excluded.revision`,
					m.Data.ID, m.Data.Revision)
				if err != nil {
					return err
				}
				_, err = tx.Tx.ExecContext(ctx, upsertOne, m.Data.ID, m.Data.Customer,
					m.Data.Status, m.Data.Total, m.Data.Note)
				return err
			})
		})
	})
}

// byHand is the quickest per message: one upsert, ack.
func (b *replicaBench) byHand(ctx context.Context, c consumption) error {
	return b.onChannels(ctx, c, 100, func(
		ctx context.Context, _ *amqp091.Channel, deliveries <-chan amqp091.Delivery,
	) error {
		return b.each(ctx, c, deliveries, func(m handMessage) error {
			_, err := b.db.DB.ExecContext(ctx, upsertOne, m.Data.ID, m.Data.Customer,
				m.Data.Status, m.Data.Total, m.Data.Note)
			return err
		})
	})
}

const upsertOne = `
	INSERT INTO bench_copies (id, customer, status, total, note) VALUES ($1, $2, $3, $4, $5)
	ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, status = excluded.status,
		total = excluded.total, note = excluded.note`

func (b *replicaBench) each(
	ctx context.Context, c consumption, deliveries <-chan amqp091.Delivery,
	apply func(handMessage) error,
) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case delivery, open := <-deliveries:
			if !open {
				return errors.New("the channel closed")
			}
			var m handMessage
			if err := json.Unmarshal(delivery.Body, &m); err != nil {
				return err
			}
			if err := apply(m); err != nil {
				return ignoreEnd(ctx, err)
			}
			if err := delivery.Ack(false); err != nil {
				return err
			}
			c.acked(time.Now(), delivery.Body)
		}
	}
}

const idealBatch = 500

// ideal takes what waits, up to 500, and writes it with one statement: no gate, the
// newest message of each key, one ack.
func (b *replicaBench) ideal(ctx context.Context, c consumption) error {
	return b.onChannels(ctx, c, 2*idealBatch, func(
		ctx context.Context, channel *amqp091.Channel, deliveries <-chan amqp091.Delivery,
	) error {
		for {
			batch, err := gather(ctx, deliveries)
			if err != nil || len(batch) == 0 {
				return err
			}
			if err := b.upsertMany(ctx, bodiesOf(batch)); err != nil {
				return ignoreEnd(ctx, err)
			}
			if err := channel.Ack(batch[len(batch)-1].DeliveryTag, true); err != nil {
				return err
			}
			now := time.Now()
			for _, delivery := range batch {
				c.acked(now, delivery.Body)
			}
		}
	})
}

// gather waits for one delivery and takes those that are there; nothing when ctx ends.
func gather(
	ctx context.Context, deliveries <-chan amqp091.Delivery,
) (batch []amqp091.Delivery, err error) {
	for len(batch) < idealBatch {
		if len(batch) > 0 && len(deliveries) == 0 {
			select {
			case delivery, open := <-deliveries:
				if !open {
					return nil, errors.New("the channel closed")
				}
				batch = append(batch, delivery)
			case <-time.After(time.Millisecond):
				return batch, nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, nil
		case delivery, open := <-deliveries:
			if !open {
				return nil, errors.New("the channel closed")
			}
			batch = append(batch, delivery)
		}
	}
	return batch, nil
}

func bodiesOf(batch []amqp091.Delivery) [][]byte {
	bodies := make([][]byte, len(batch))
	for i, delivery := range batch {
		bodies[i] = delivery.Body
	}
	return bodies
}

func (b *replicaBench) upsertMany(ctx context.Context, bodies [][]byte) error {
	newest := make(map[int64]handMessage, len(bodies))
	for _, body := range bodies {
		var m handMessage
		if err := json.Unmarshal(body, &m); err != nil {
			return err
		}
		if old, seen := newest[m.Data.ID]; !seen || old.Data.Revision < m.Data.Revision {
			newest[m.Data.ID] = m
		}
	}
	var ids, totals []int64
	var customers, statuses, notes []string
	for id, m := range newest {
		ids, totals = append(ids, id), append(totals, m.Data.Total)
		customers, statuses = append(customers, m.Data.Customer), append(statuses, m.Data.Status)
		notes = append(notes, m.Data.Note)
	}
	_, err := b.db.DB.ExecContext(ctx, `INSERT INTO bench_copies (id, customer, status, total, note)
		SELECT * FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bigint[], $5::text[])
			AS n (id, customer, status, total, note)
		ORDER BY id
		ON CONFLICT (id) DO UPDATE SET customer = excluded.customer, status = excluded.status,
			total = excluded.total, note = excluded.note`,
		ids, customers, statuses, totals, notes)
	return err
}

// ignoreEnd is nil for an error that the end of ctx brought about.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}
