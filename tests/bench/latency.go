package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// latencyTime is how long a case writes in a round: long enough for a
// 99th percentile at 100 a second.
const latencyTime = 4 * time.Second

// latencyWarmUp is how long it writes before: until sessions have been opened, and
// have read the catalogue and planned.
const latencyWarmUp = time.Second

// benchLatency measures the time from COMMIT, as the writer sees it, to a RabbitMQ consumer.
func benchLatency(ctx context.Context, o options, report func(result)) (err error) {
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	l, err := newLatencyBench(ctx, db)
	if err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	defer func() { err = errors.Join(err, l.close()) }()
	for _, rate := range []int{100, 1000} {
		name := fmt.Sprintf("%d transactions a second", rate)
		if !strings.Contains(name, o.only) {
			continue
		}
		p99 := map[string][]float64{}
		of := func(name string, way latencyWay) benchCase {
			return benchCase{name, func(ctx context.Context) (float64, error) {
				delays, err := l.run(ctx, rate, way)
				if err != nil {
					return 0, err
				}
				p99[name] = append(p99[name], percentile(delays, 0.99))
				return percentile(delays, 0.5), nil
			}}
		}
		const byHand = "hand-written publish after commit"
		g := group{bench: "latency", name: name + ", p50", unit: "ms", of: byHand, cases: []benchCase{
			of(byHand, latencyWay{byHand: true}),
			of("cqrsync, relay in the same process", latencyWay{wake: true}),
			of("the same, prepared", latencyWay{wake: true, prepared: true}),
			of("cqrsync, relay elsewhere, NOTIFY", latencyWay{listen: true}),
			of("cqrsync, relay elsewhere, polling", latencyWay{}),
		}}
		r, err := g.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
		g.name = name + ", p99"
		report(result{group: g, values: p99})
	}
	const idle = "an idle relay"
	if !strings.Contains(idle, o.only) {
		return nil
	}
	g := group{
		bench: "latency", name: idle, unit: "statements/s", of: "cqrsync",
		cases: []benchCase{{"cqrsync", l.idleQueries}},
	}
	o.rounds = 1
	r, err := g.measure(ctx, o)
	if err == nil {
		report(r)
	}
	return err
}

// latencyWay is how a message gets from the writer to the broker.
type latencyWay struct{ byHand, wake, prepared, listen bool }

type latencyBench struct {
	db       *bun.DB // with nothing attached
	schema   string
	loud     *outbox.Box // sends NOTIFY
	quiet    *outbox.Box
	prepared *outbox.Box
	next     int64

	statements atomic.Int64 // of relays
	conn       *amqp091.Connection
	channel    *amqp091.Channel    // publishes by hand, with confirms
	consumer   *amqp091.Connection // another service's
	exchange   string

	mu       sync.Mutex
	received map[string]time.Time
	arrived  chan struct{} // one is pending when something arrived
}

func newLatencyBench(ctx context.Context, db *bun.DB) (*latencyBench, error) {
	l := &latencyBench{
		db: bun.NewDB(db.DB, db.Dialect()), next: 1_000_000,
		exchange: "cqrsync_bench_" + watermill.NewShortUUID(),
		received: map[string]time.Time{}, arrived: make(chan struct{}, 1),
	}
	if err := db.NewRaw("SELECT current_schema()").Scan(ctx, &l.schema); err != nil {
		return nil, err
	}
	for _, box := range []struct {
		to     **outbox.Box
		config outbox.Config
	}{
		{&l.loud, outbox.Config{}},
		{&l.quiet, outbox.Config{NotifyEvery: -1}},
		{&l.prepared, outbox.Config{NotifyEvery: -1, Prepare: true}},
	} {
		var err error
		if *box.to, err = outbox.New(bun.NewDB(db.DB, db.Dialect()), box.config); err != nil {
			return nil, err
		}
		if err := outbox.Register[trackedOrder](*box.to, "order"); err != nil {
			return nil, err
		}
	}
	if err := l.loud.Migrate(ctx); err != nil {
		return nil, err
	}
	if _, err := l.db.NewCreateTable().Model((*plainOrder)(nil)).Exec(ctx); err != nil {
		return nil, err
	}
	return l, l.connect()
}

// connect makes the queue and consumes from it.
func (l *latencyBench) connect() error {
	var err error
	for _, conn := range []**amqp091.Connection{&l.conn, &l.consumer} {
		if *conn, err = amqp091.Dial(os.Getenv(dbtest.Variable(dbtest.RabbitMQ))); err != nil {
			// The error may quote the URL.
			return fmt.Errorf("set %s to the URL of a RabbitMQ broker",
				dbtest.Variable(dbtest.RabbitMQ))
		}
	}
	if l.channel, err = l.conn.Channel(); err != nil {
		return err
	}
	err = l.channel.ExchangeDeclare(l.exchange, "topic", true, false, false, false, nil)
	if err != nil {
		return err
	}
	if _, err := l.channel.QueueDeclare(l.exchange, true, false, false, false, nil); err != nil {
		return err
	}
	if err := l.channel.QueueBind(l.exchange, "order", l.exchange, false, nil); err != nil {
		return err
	}
	if err := l.channel.Confirm(false); err != nil {
		return err
	}
	consumer, err := l.consumer.Channel()
	if err != nil {
		return err
	}
	deliveries, err := consumer.Consume(l.exchange, "", true, false, false, false, nil)
	if err != nil {
		return err
	}
	go func() { // ends with the connection
		for d := range deliveries {
			now := time.Now()
			key, _ := d.Headers["cqrs_key"].(string)
			l.mu.Lock()
			if _, again := l.received[key]; !again {
				l.received[key] = now
			}
			l.mu.Unlock()
			select {
			case l.arrived <- struct{}{}:
			default:
			}
		}
	}()
	return nil
}

func (l *latencyBench) close() error {
	_, err := l.channel.QueueDelete(l.exchange, false, false, false)
	return errors.Join(err, l.channel.ExchangeDelete(l.exchange, false, false),
		l.conn.Close(), l.consumer.Close())
}

// run writes at a steady rate and returns the delay of every message in milliseconds.
func (l *latencyBench) run(
	ctx context.Context, rate int, way latencyWay,
) (delays []float64, err error) {
	if !way.byHand {
		stop, err := l.startRelay(ctx, way)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	if _, err := l.write(ctx, rate, way, latencyWarmUp); err != nil {
		return nil, err
	}
	committed, err := l.write(ctx, rate, way, latencyTime)
	if err != nil {
		return nil, err
	}
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		if delays = l.delays(committed); delays != nil {
			return delays, nil
		}
		select {
		case <-l.arrived:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-deadline.C:
			return nil, errors.New("not every message arrived")
		}
	}
}

// delays returns nothing until everything has arrived.
func (l *latencyBench) delays(committed map[string]time.Time) []float64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	delays := make([]float64, 0, len(committed))
	for key, at := range committed {
		arrived, ok := l.received[key]
		if !ok {
			return nil
		}
		// The server has committed before the writer hears of it.
		delays = append(delays, float64(max(arrived.Sub(at), 0).Microseconds())/1000)
	}
	clear(l.received)
	return delays
}

func percentile(values []float64, p float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(float64(len(sorted))*p), len(sorted)-1)]
}
