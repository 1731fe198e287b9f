package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/open"
)

// filledOrder is what the master has.
type filledOrder struct {
	bun.BaseModel `bun:"table:bench_filled"`

	ID       int64 `bun:",pk"`
	Customer string
	Status   string
	Total    int64
	Note     string
}

const (
	liveRate = 500 // writes a second beside a backfill
	liveKeys = 5_000
)

// benchBackfill measures how fast a replica is filled over RabbitMQ,
// and what that costs live changes.
func benchBackfill(ctx context.Context, o options, report func(result)) (err error) {
	address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
	b := &fillBench{replicaBench: replicaBench{o: o, address: address}}
	if b.address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	b.db = db
	if err := errors.Join(b.prepare(ctx), b.prepareMaster(ctx)); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	defer func() { err = errors.Join(err, b.box.Close()) }()
	p99 := map[string][]float64{}
	delay := func(name string, filling bool) benchCase {
		return benchCase{name, func(ctx context.Context) (float64, error) {
			delays, err := b.liveDelay(ctx, filling)
			if err != nil {
				return 0, err
			}
			p99[name] = append(p99[name], percentile(delays, 0.99))
			return percentile(delays, 0.5), nil
		}}
	}
	const alone, handWritten = "nothing beside it", "hand-written ideal of bench replica"
	groups := []group{
		{bench: "backfill", name: "rows", unit: "rows/s", of: handWritten, cases: []benchCase{
			{"cqrsync", b.fillRate}, {handWritten, b.rate(appliedFast, 1, b.ideal)},
		}},
		{
			bench: "backfill", name: fmt.Sprintf("p50 delay at %d writes/s", liveRate),
			unit: "ms", of: alone,
			cases: []benchCase{delay("a backfill beside it", true), delay(alone, false)},
		},
	}
	for i, g := range groups {
		if !strings.Contains(g.name, o.only) {
			continue
		}
		r, err := g.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
		if i == 1 {
			g.name = strings.Replace(g.name, "p50", "p99", 1)
			report(result{group: g, values: p99})
		}
	}
	return nil
}

type fillBench struct {
	replicaBench

	box *outbox.Box
}

var discarded = slog.New(slog.NewTextHandler(io.Discard, nil))

func (b *fillBench) prepareMaster(ctx context.Context) (err error) {
	if _, err := b.db.NewCreateTable().Model((*filledOrder)(nil)).Exec(ctx); err != nil {
		return err
	}
	_, err = b.db.ExecContext(ctx, `INSERT INTO bench_filled
		SELECT n, 'customer ' || n, 'new', n * 100,
		'a note of about the length that notes have, because rows of a few bytes flatter everybody alike'
		FROM generate_series(1, ?) AS n`, b.o.rows)
	if err != nil {
		return err
	}
	db := bun.NewDB(b.db.DB, b.db.Dialect())
	if b.box, err = outbox.New(db, outbox.Config{Logger: discarded}); err != nil {
		return err
	}
	if err := outbox.Register[filledOrder](b.box, "order"); err != nil {
		return err
	}
	return b.box.Migrate(ctx)
}

// with runs a relay, an answerer and a replica, and use beside them. acked is told of each message
// that the replica has applied.
func (b *fillBench) with(
	ctx context.Context, acked func(at time.Time, body []byte),
	use func(ctx context.Context, queue string, a *converge.Answerer) error,
) error {
	if err := b.empty(ctx); err != nil {
		return err
	}
	if _, err := b.db.ExecContext(ctx, "TRUNCATE outbox_backfills, outbox_replicas"); err != nil {
		return err
	}
	return b.withQueue(func(c consumption, _ *amqp091.Channel) error {
		c.workers, c.acked = 1, acked
		address, err := withParameters(b.address, map[string]string{"exchange": c.exchange})
		if err != nil {
			return err
		}
		publisher, err := open.Publisher(address, open.Options{Logger: discarded})
		if err != nil {
			return err
		}
		answerer, err := newAnswerer(b.box, publisher, address)
		if err != nil {
			return err
		}
		rel, err := relay.New(b.db, publisher, relay.Config{
			Logger: discarded, Handover: b.box.Handover(),
		})
		if err != nil {
			return err
		}
		running, stop := context.WithCancel(ctx)
		group, running := errgroup.WithContext(running)
		group.Go(func() error { return rel.Run(running) })
		group.Go(func() error { return b.cqrsync(running, c) })
		group.Go(func() error {
			defer stop()
			return use(running, c.queue, answerer)
		})
		return errors.Join(group.Wait(), publisher.Close())
	})
}

func newAnswerer(
	box *outbox.Box, publisher message.Publisher, address string,
) (*converge.Answerer, error) {
	return converge.NewAnswerer(box, converge.Broker{
		Publisher: publisher,
		Inbox: func() (message.Subscriber, error) {
			return open.Inbox(address, open.Options{Logger: discarded})
		},
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(address, name, open.Options{Logger: discarded})
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil //nolint:forcetypeassert // RabbitMQ's is one
		},
	}, converge.AnswererConfig{Logger: discarded})
}

// fillRate fills a replica, and returns how many rows a second it had applied at the last one.
func (b *fillBench) fillRate(ctx context.Context) (rate float64, err error) {
	var applied atomic.Int64
	full := make(chan time.Time, 1)
	err = b.with(ctx, func(at time.Time, _ []byte) {
		if applied.Add(1) == int64(b.o.rows) {
			full <- at
		}
	}, func(ctx context.Context, queue string, a *converge.Answerer) error {
		start := time.Now()
		if err := backfill(ctx, queue, a); err != nil {
			return err
		}
		select {
		case end := <-full:
			rate = float64(b.o.rows) / end.Sub(start).Seconds()
		case <-time.After(time.Minute):
			return errors.New("not all rows were applied within a minute")
		case <-ctx.Done():
			return ctx.Err()
		}
		return nil
	})
	return rate, err
}

// backfill does a whole backfill.
func backfill(ctx context.Context, queue string, a *converge.Answerer) error {
	if err := a.OrderBackfill(ctx, converge.Backfill{Queue: queue, Model: "order"}); err != nil {
		return err
	}
	_, err := a.FollowBackfill(ctx, queue, "order", nil)
	return err
}

// liveDelay returns how many milliseconds changes took from their revision to the ack of the
// replica, for the time that a backfill goes on beside them, or for as long as --duration says.
func (b *fillBench) liveDelay(ctx context.Context, filling bool) (delays []float64, err error) {
	measured := make(chan float64, 1_000_000)
	err = b.with(ctx, func(at time.Time, body []byte) {
		m, err := envelope.Decode(body, nil)
		if err == nil && m.Signal == envelope.Save {
			measured <- float64(at.Sub(m.Updated).Microseconds()) / 1000
		}
	}, func(ctx context.Context, queue string, a *converge.Answerer) error {
		writing, stop := context.WithCancel(ctx)
		group, _ := errgroup.WithContext(ctx)
		group.Go(func() error { return b.writeLive(writing) })
		var measureErr error
		wait := func(d time.Duration) {
			select {
			case <-time.After(d):
			case <-ctx.Done():
			}
		}
		wait(latencyWarmUp)
		for range len(measured) {
			<-measured
		}
		if filling {
			measureErr = backfill(ctx, queue, a)
		} else {
			wait(delayFor * b.o.duration)
		}
		for range len(measured) {
			delays = append(delays, <-measured)
		}
		stop()
		return errors.Join(measureErr, group.Wait())
	})
	if err == nil && len(delays) == 0 {
		err = errors.New("no change arrived")
	}
	return delays, err
}

// writeLive changes rows, one in a transaction, at a steady rate until ctx ends.
func (b *fillBench) writeLive(ctx context.Context) error {
	tick := time.NewTicker(time.Second / liveRate)
	defer tick.Stop()
	group, _ := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for i := int64(0); ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return group.Wait()
		}
		group.Go(func() error {
			set := &filledOrder{ID: 1 + i%liveKeys, Status: fmt.Sprint("live ", i)}
			ctx := context.WithoutCancel(ctx)
			return b.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.NewUpdate().Model(set).Column("status").WherePK().Exec(ctx)
				return err
			})
		})
	}
}
