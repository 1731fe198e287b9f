package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

const (
	appliedFast = 40_000 // messages of a case that applies in batches
	appliedSlow = 4_000  // of one that commits each
	appliedKeys = 4_000  // that the messages are spread over, one after the other
	delayRate   = 100    // messages per second, where the delay is measured
	delayFor    = 4      // times --duration, because a p99 wants samples
)

// orderCopy is what the replica keeps, whoever writes it.
type orderCopy struct {
	bun.BaseModel `bun:"table:bench_copies"`

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

// benchReplica compares ways to bring messages from a RabbitMQ queue into a PostgreSQL table.
func benchReplica(ctx context.Context, o options, report func(result)) (err error) {
	b := &replicaBench{o: o, address: os.Getenv(dbtest.Variable(dbtest.RabbitMQ))}
	if b.address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	b.db = db
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	var groups []group
	for _, workers := range []int{1, 4} {
		groups = append(groups, group{
			bench: "replica", name: fmt.Sprintf("apply, %d workers", workers),
			unit: "messages/s", of: "hand-written ideal",
			cases: []benchCase{
				{"one transaction per message", b.rate(appliedSlow, workers, b.byOne)},
				{"cqrsync", b.rate(appliedFast, workers, b.cqrsync)},
				{"the same, traced, not sampled", b.rate(appliedFast, workers, b.traced)},
				{"hand-written ideal", b.rate(appliedFast, workers, b.ideal)},
			},
		})
	}
	for _, p := range []int{50, 99} {
		groups = append(groups, group{
			bench: "replica", name: fmt.Sprintf("p%d delay at %d messages/s", p, delayRate),
			unit: "ms", of: "hand-written consumer",
			cases: []benchCase{
				{"cqrsync", b.delay(p, b.cqrsync)},
				{"hand-written consumer", b.delay(p, b.byHand)},
			},
		})
	}
	for _, g := range groups {
		if !strings.Contains(g.name, o.only) {
			continue
		}
		r, err := g.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
	}
	return nil
}

type replicaBench struct {
	o       options
	address string
	db      *bun.DB
}

// consumption is one case's queue, and whom to tell of every message
// that is committed and acknowledged.
type consumption struct {
	exchange, queue string
	workers         int
	acked           func(at time.Time, body []byte)
}

// consumer applies what is in the queue until ctx ends.
type consumer func(ctx context.Context, c consumption) error

func (b *replicaBench) prepare(ctx context.Context) error {
	if _, err := b.db.NewCreateTable().Model((*orderCopy)(nil)).Exec(ctx); err != nil {
		return err
	}
	if _, err := b.db.ExecContext(ctx, "CREATE TABLE bench_processed "+
		"(id bigint PRIMARY KEY, revision bigint NOT NULL)"); err != nil {
		return err
	}
	rep, err := replica.New(b.db, replica.Config{Queue: "bench"})
	if err != nil {
		return err
	}
	return rep.Migrate(ctx)
}

func (b *replicaBench) empty(ctx context.Context) error {
	_, err := b.db.ExecContext(ctx,
		"TRUNCATE bench_copies, bench_processed, replica_revisions, replica_waiting")
	return err
}

// withQueue gives use an exchange and a durable queue, and removes them.
func (b *replicaBench) withQueue(
	use func(c consumption, channel *amqp091.Channel) error,
) (err error) {
	conn, err := amqp091.Dial(b.address)
	if err != nil {
		return errors.New("RabbitMQ cannot be reached") // the error may quote the URL
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	name := "cqrsync_bench_" + watermill.NewShortUUID()
	if err := channel.ExchangeDeclare(name, "topic", true, false, false, false, nil); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, channel.ExchangeDelete(name, false, false)) }()
	if _, err := channel.QueueDeclare(name, true, false, false, false, nil); err != nil {
		return err
	}
	defer func() {
		// Ours makes the others.
		for _, queue := range []string{name, "dead_letter_" + name, name + ".database"} {
			_, deleteErr := channel.QueueDelete(queue, false, false, false)
			err = errors.Join(err, deleteErr)
		}
	}()
	if err := channel.QueueBind(name, "order", name, false, nil); err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	return use(consumption{exchange: name, queue: name}, channel)
}

// orderMessage is message i, and how it is encoded.
func orderMessage(i int) (m envelope.Message, body []byte, err error) {
	id, revision := int64(i%appliedKeys), int64(i/appliedKeys)
	row := newOrder(id)
	m = envelope.Message{
		Signal: envelope.Save, Model: "order", PK: fmt.Appendf(nil, "%d", id),
		Revision: revision, Updated: time.Now(),
	}
	m.Data = envelope.Stamp(fmt.Appendf(nil,
		`{"id":%d,"customer":%q,"status":"status %d","total":%d,"note":%q}`,
		id, row.Customer, revision, row.Total, row.Note), revision, m.Updated)
	if revision > 0 {
		after := revision - 1
		m.After = &after
	}
	body, err = m.Encode()
	return m, body, err
}

// publish sends message i and does not wait.
func (b *replicaBench) publish(
	ctx context.Context, channel *amqp091.Channel, exchange string, i int,
) (*amqp091.DeferredConfirmation, error) {
	m, body, err := orderMessage(i)
	if err != nil {
		return nil, err
	}
	headers := amqp091.Table{}
	for key, value := range m.Metadata() {
		headers[key] = value
	}
	headers["traceparent"] = notRecorded
	message := amqp091.Publishing{
		ContentType: "text/plain", DeliveryMode: amqp091.Persistent,
		MessageId: watermill.NewUUID(), Headers: headers, Body: body,
	}
	return channel.PublishWithDeferredConfirmWithContext(
		ctx, exchange, "order", false, false, message)
}

// rate fills a queue, and measures how fast the consumer empties it.
func (b *replicaBench) rate(
	messages, workers int, consume consumer,
) func(context.Context) (float64, error) {
	return func(ctx context.Context) (rate float64, err error) {
		if err := b.empty(ctx); err != nil {
			return 0, err
		}
		err = b.withQueue(func(c consumption, channel *amqp091.Channel) error {
			var last *amqp091.DeferredConfirmation
			for i := range messages {
				if last, err = b.publish(ctx, channel, c.exchange, i); err != nil {
					return err
				}
			}
			if _, err := last.WaitContext(ctx); err != nil {
				return err
			}
			acks := make(chan time.Time, messages)
			c.workers = workers
			c.acked = func(at time.Time, _ []byte) { acks <- at }
			start := time.Now()
			end, err := b.until(ctx, consume, c, acks, messages)
			rate = float64(messages) / end.Sub(start).Seconds()
			return err
		})
		if err == nil {
			err = b.checkCopies(ctx, messages)
		}
		return rate, err
	}
}

// until runs a consumer for so many acks, and returns the time of the last.
func (b *replicaBench) until(
	ctx context.Context, consume consumer, c consumption, acks <-chan time.Time, n int,
) (end time.Time, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- consume(ctx, c) }()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for range n {
		select {
		case end = <-acks:
		case err := <-done:
			return end, fmt.Errorf("the consumer ended: %w", err)
		case <-deadline.C:
			stop()
			return end, errors.Join(errors.New("not all messages were applied within a minute"), <-done)
		}
	}
	stop()
	return end, <-done
}

// checkCopies sees that every way did the work.
func (b *replicaBench) checkCopies(ctx context.Context, messages int) error {
	n, err := b.db.NewSelect().Model((*orderCopy)(nil)).Count(ctx)
	if err == nil && int(n) != min(messages, appliedKeys) {
		err = fmt.Errorf("%d rows, want %d", n, min(messages, appliedKeys))
	}
	return err
}
