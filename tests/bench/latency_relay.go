package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/wake"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

func (l *latencyBench) box(way latencyWay) *outbox.Box {
	switch {
	case way.listen:
		return l.loud
	case way.prepared:
		return l.prepared
	default:
		return l.quiet
	}
}

// startRelay runs a relay, on connections of its own where it is elsewhere; stop ends it.
func (l *latencyBench) startRelay(
	ctx context.Context, way latencyWay,
) (stop func() error, err error) {
	address, err := withParameters(os.Getenv(dbtest.Variable(dbtest.RabbitMQ)),
		map[string]string{"exchange": l.exchange})
	if err != nil {
		return nil, err
	}
	config, err := amqp.NewConfig(address, "")
	if err != nil {
		return nil, err
	}
	publisher, err := amqp.NewPublisher(config)
	if err != nil {
		return nil, err
	}
	cfg := relay.Config{Logger: slog.New(slog.DiscardHandler)}
	listener, err := wake.NewListener(os.Getenv(dbtest.Variable(dbtest.Postgres)),
		wake.Config{Schema: l.schema, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	switch {
	case way.wake:
		cfg.Handover = l.box(way).Handover()
	case way.listen:
		cfg.Wake = listener.Wake()
	}
	rel, err := relay.New(l.db.WithQueryHook(statementCounter{&l.statements}), publisher, cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running errgroup.Group
	running.Go(func() error { return rel.Run(ctx) })
	if way.listen {
		running.Go(func() error {
			listener.Run(ctx)
			return nil
		})
	}
	<-rel.Running()
	return func() error {
		cancel()
		return errors.Join(running.Wait(), publisher.Close())
	}, nil
}

// idleQueries counts the statements a second of a relay that has nothing to do.
func (l *latencyBench) idleQueries(ctx context.Context) (float64, error) {
	stop, err := l.startRelay(ctx, latencyWay{listen: true})
	if err != nil {
		return 0, err
	}
	const calm, watch = 3 * time.Second, 10 * time.Second
	time.Sleep(calm) //nolint:forbidigo // it looks again and again after work, and less and less
	before := l.statements.Load()
	time.Sleep(watch) //nolint:forbidigo // that is what is measured
	return float64(l.statements.Load()-before) / watch.Seconds(), stop()
}

// statementCounter is a hook that counts a relay's statements.
type statementCounter struct{ n *atomic.Int64 }

func (statementCounter) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

func (c statementCounter) AfterQuery(context.Context, *bun.QueryEvent) { c.n.Add(1) }
