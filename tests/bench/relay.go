package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// benchRelay drains a backlog into a durable RabbitMQ queue, everything confirmed.
func benchRelay(ctx context.Context, o options, report func(result)) (err error) {
	const rows, forwarder = 100_000, "Watermill forwarder"
	address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
	if address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	b, err := newBacklog(ctx, rows, rows, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop()) }()
	payload, err := wire(backlogMessage(rows/2, 0, true))
	if err != nil {
		return err
	}
	for _, kind := range []string{"classic", "quorum"} {
		name := "100,000 rows, PostgreSQL to a " + kind + " queue"
		if !strings.Contains(name, o.only) {
			continue
		}
		r := relayBench{publishBench{address: address, kind: kind, payload: payload}, b}
		result, err := group{
			bench: "relay", name: name, unit: "messages/s", of: "raw publisher alone",
			cases: []benchCase{
				{"raw publisher alone", r.rate(rows, r.raw)},
				{"the same, mandatory", r.rate(rows, r.rawMandatory)},
				{"cqrsync, 1 relay", r.drained(1, r.publishers)},
				{"the same, traced, not sampled", r.drained(1, r.tracedPublishers)},
				{"cqrsync, 2 relays", r.drained(2, r.publishers)},
				{"cqrsync, 4 relays", r.drained(4, r.publishers)},
				{forwarder, r.forwarded()},
			},
			rounds: map[string]int{forwarder: 2}, // of two minutes each
		}.measure(ctx, o)
		if err != nil {
			return err
		}
		report(result)
	}
	return nil
}

type relayBench struct {
	publishBench
	backlog *backlog
}

// drained empties the backlog with n relays, each with its own publisher.
func (r relayBench) drained(n int, with publishersAt) func(context.Context) (float64, error) {
	return r.timed(r.backlog.rows, func(
		ctx context.Context, at publishPlace,
	) (took time.Duration, err error) {
		publisher, closeAll, err := with(at)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, closeAll()) }()
		return r.backlog.drain(ctx, publisher, n)
	})
}

// publishersAt returns a function that makes a publisher, and one that closes them all.
type publishersAt func(at publishPlace) (
	open func() message.Publisher, closeAll func() error, err error,
)

// tracedPublishers are publishers whose messages are looked at for a
// trace that is recorded; none is.
func (r relayBench) tracedPublishers(
	at publishPlace,
) (func() message.Publisher, func() error, error) {
	open, closeAll, err := r.publishers(at)
	return func() message.Publisher { return notSampling().Publisher(open()) }, closeAll, err
}

// notSampling is tracing as it is configured where traces are recorded seldom.
func notSampling() *otelcqrs.Tracing {
	return otelcqrs.New(otelcqrs.Config{TracerProvider: sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.NeverSample())))})
}

// publishers returns a function that makes one, and one that closes them all.
func (r relayBench) publishers(
	at publishPlace,
) (open func() message.Publisher, closeAll func() error, err error) {
	address, err := withParameters(r.address, map[string]string{"exchange": at.exchange})
	if err != nil {
		return nil, nil, err
	}
	config, err := amqp.NewConfig(address, "")
	if err != nil {
		return nil, nil, err
	}
	var all []*amqp.Publisher
	open = func() message.Publisher {
		publisher, err := amqp.NewPublisher(config)
		if err != nil {
			return nil // which relay.New refuses
		}
		all = append(all, publisher)
		return publisher
	}
	closeAll = func() error {
		var errs []error
		for _, publisher := range all {
			errs = append(errs, publisher.Close())
		}
		return errors.Join(errs...)
	}
	return open, closeAll, nil
}

// timed is rate, with the time that publish says it took.
func (r relayBench) timed(
	messages int, publish func(context.Context, publishPlace) (time.Duration, error),
) func(context.Context) (float64, error) {
	return func(ctx context.Context) (float64, error) {
		var took time.Duration
		_, err := r.rate(messages, func(ctx context.Context, at publishPlace) (err error) {
			took, err = publish(ctx, at)
			return err
		})(ctx)
		return float64(messages) / took.Seconds(), err
	}
}
