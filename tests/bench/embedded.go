package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// embeddedItem is a row of the master on a SQLite file.
type embeddedItem struct {
	bun.BaseModel `bun:"table:items"`
	outbox.Tracked

	ID   int64 `bun:",pk"`
	Text string
}

const (
	embeddedRate    = 100 // transactions a second
	embeddedBacklog = 20_000
	embeddedIdle    = 5 * time.Second
	fileBroker      = "a SQLite file"
	rabbitBroker    = "RabbitMQ"
)

// benchEmbedded compares the broker in a SQLite file with RabbitMQ, behind the same master on a
// SQLite file and a relay in its process.
func benchEmbedded(ctx context.Context, o options, report func(result)) error {
	brokers := embeddedBrokers()
	p99 := map[string][]float64{}
	for _, g := range []struct {
		name, unit string
		measure    func(ctx context.Context, e *embedded, broker string) (float64, error)
	}{
		{"delay at 100 transactions a second, p50", "ms", func(
			ctx context.Context, e *embedded, broker string,
		) (float64, error) {
			delays, err := e.delays(ctx, o.duration)
			if err != nil {
				return 0, err
			}
			p99[broker] = append(p99[broker], percentile(delays, 0.99))
			return percentile(delays, 0.5), nil
		}},
		{"a backlog of 20,000 messages", "messages/s", func(
			ctx context.Context, e *embedded, _ string,
		) (float64, error) {
			return e.backlog(ctx)
		}},
		{"idle relay and consumer", "ms of CPU a second", func(
			ctx context.Context, e *embedded, _ string,
		) (float64, error) {
			return e.idle(ctx)
		}},
	} {
		if !strings.Contains(g.name, o.only) {
			continue
		}
		compared := group{bench: "embedded", name: g.name, unit: g.unit, of: fileBroker}
		for _, name := range []string{fileBroker, rabbitBroker} {
			if brokers[name] == nil {
				continue
			}
			measured := func(ctx context.Context) (float64, error) {
				return withEmbedded(ctx, brokers[name], func(e *embedded) (float64, error) {
					return g.measure(ctx, e, name)
				})
			}
			compared.cases = append(compared.cases, benchCase{name, measured})
		}
		r, err := compared.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
		if len(p99) > 0 {
			compared.name = strings.Replace(compared.name, "p50", "p99", 1)
			report(result{group: compared, values: p99})
			p99 = map[string][]float64{}
		}
	}
	return nil
}

// embeddedBrokers are the URLs of the brokers to compare, for a folder of their own: the file, and
// RabbitMQ where there is one.
func embeddedBrokers() map[string]func(dir string) string {
	brokers := map[string]func(dir string) string{
		fileBroker: func(dir string) string { return "sqlite://" + filepath.Join(dir, "broker.db") },
	}
	if address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ)); address != "" {
		brokers[rabbitBroker] = func(string) string {
			return address + "?exchange=cqrsync_bench_" + watermill.NewShortUUID()
		}
	}
	return brokers
}

// embedded is a master and a consumer.
type embedded struct {
	db        *bun.DB
	box       *outbox.Box
	publisher transport.BatchPublisher
	messages  <-chan *message.Message
	next      int64
}

func withEmbedded(
	ctx context.Context, broker func(dir string) string, measure func(*embedded) (float64, error),
) (value float64, err error) {
	dir, err := os.MkdirTemp("", "cqrsync-embedded-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	address := broker(dir)
	if _, err := url.Parse(address); err != nil {
		return 0, fmt.Errorf("the address of %s: not a URL", dbtest.RabbitMQ)
	}
	e := &embedded{}
	if e.db, err = database.Open("sqlite://" + filepath.Join(dir, "master.db")); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.db.Close()) }()
	if e.box, err = outbox.New(e.db, outbox.Config{}); err != nil {
		return 0, err
	}
	err = errors.Join(outbox.Register[embeddedItem](e.box, "item"), e.box.Migrate(ctx))
	if err != nil {
		return 0, err
	}
	if _, err = e.db.NewCreateTable().Model((*embeddedItem)(nil)).Exec(ctx); err != nil {
		return 0, err
	}
	quiet := open.Options{Logger: slog.New(slog.DiscardHandler)}
	subscriber, err := open.Subscriber(address, "bench_"+watermill.NewShortUUID(), quiet)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, subscriber.Close()) }()
	if e.messages, err = subscriber.SubscribeWindow(ctx, "item", 1000); err != nil {
		return 0, err
	}
	if e.publisher, err = open.Publisher(address, quiet); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.publisher.Close()) }()
	return measure(e)
}

// relaying runs measure beside a relay.
func (e *embedded) relaying(ctx context.Context, measure func() error) error {
	rel, err := relay.New(e.db, e.publisher, relay.Config{
		Logger: slog.New(slog.DiscardHandler), Handover: e.box.Handover(),
	})
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(running) }()
	err = measure()
	stop()
	return errors.Join(err, <-ended)
}

func (e *embedded) write(ctx context.Context, rows int) error {
	return e.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		items := make([]embeddedItem, rows)
		for i := range items {
			e.next++
			items[i] = embeddedItem{ID: e.next, Text: fmt.Sprintf("%0200d", e.next)}
		}
		_, err := tx.NewInsert().Model(&items).Exec(ctx)
		return err
	})
}

func (e *embedded) receive(ctx context.Context) error {
	select {
	case msg, open := <-e.messages:
		if !open {
			return errors.New("the subscription ended")
		}
		msg.Ack()
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// delays measures from the return of each commit to the message.
func (e *embedded) delays(ctx context.Context, length time.Duration) (delays []float64, err error) {
	err = e.relaying(ctx, func() error {
		for warm := range 20 {
			if err := errors.Join(e.write(ctx, 1), e.receive(ctx)); err != nil {
				return fmt.Errorf("warm up %d: %w", warm, err)
			}
		}
		tick := time.NewTicker(time.Second / embeddedRate)
		defer tick.Stop()
		for end := time.Now().Add(length); time.Now().Before(end); {
			<-tick.C
			if err := e.write(ctx, 1); err != nil {
				return err
			}
			committed := time.Now()
			if err := e.receive(ctx); err != nil {
				return err
			}
			delays = append(delays, float64(time.Since(committed).Microseconds())/1000)
		}
		return nil
	})
	return delays, err
}

// backlog measures how fast what waits gets through.
func (e *embedded) backlog(ctx context.Context) (perSecond float64, err error) {
	for range embeddedBacklog / 500 {
		if err := e.write(ctx, 500); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	err = e.relaying(ctx, func() error {
		for range embeddedBacklog {
			if err := e.receive(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	return embeddedBacklog / time.Since(began).Seconds(), err
}

// idle measures the process's time on a processor while nothing is to be
// done. The server's own is not in it.
func (e *embedded) idle(ctx context.Context) (perSecond float64, err error) {
	err = e.relaying(ctx, func() error {
		if err := errors.Join(e.write(ctx, 1), e.receive(ctx)); err != nil {
			return err
		}
		<-time.After(time.Second) // until all is quiet
		before := processTime()
		<-time.After(embeddedIdle)
		perSecond = float64((processTime() - before).Microseconds()) / 1000 / embeddedIdle.Seconds()
		return nil
	})
	return perSecond, err
}
