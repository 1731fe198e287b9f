package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// place is somewhere on a broker where nobody else is. What is done by hand there is done with the
// broker's own client, as one writes it for speed.
type place interface {
	// address is what cqrsync is given. What it makes and what is made by hand do not meet.
	address() string
	// publish sends bodies by hand, each with the headers that cqrsync's have, and returns when all
	// are confirmed.
	publish(ctx context.Context, bodies [][]byte) error
	// consume hands bodies by hand to apply, up to idealBatch at once, and acknowledges what that has
	// applied. It returns nil when ctx ends.
	consume(ctx context.Context, apply func(bodies [][]byte) error) error
	// remove removes all that either has made.
	remove(ctx context.Context) error
}

// openPlace opens one on the broker of a URL.
func openPlace(ctx context.Context, address string) (place, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, errors.New("--broker is not a URL")
	}
	switch u.Scheme {
	case "nats":
		return openNATS(ctx, u)
	case "redis":
		return openRedis(ctx, u)
	case "kafka":
		return openKafka(ctx, u)
	}
	return nil, fmt.Errorf("--broker is a URL of %s: use nats, redis or kafka; without --broker it "+
		"is RabbitMQ", u.Scheme)
}

// atPlace measures at a new place.
func atPlace(
	address string, measure func(ctx context.Context, at place) (float64, error),
) func(context.Context) (float64, error) {
	return func(ctx context.Context) (value float64, err error) {
		at, err := openPlace(ctx, address)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, at.remove(context.WithoutCancel(ctx))) }()
		return measure(ctx, at)
	}
}

// handPublished measures publishing by hand.
func handPublished(messages int, body []byte) func(context.Context, place) (float64, error) {
	bodies := make([][]byte, messages)
	for i := range bodies {
		bodies[i] = body
	}
	return func(ctx context.Context, at place) (float64, error) {
		start := time.Now()
		err := at.publish(ctx, bodies)
		return float64(messages) / time.Since(start).Seconds(), err
	}
}

const byClient = "its own client, by hand"

// benchPublishTo compares publishers of a broker that have every message confirmed.
func benchPublishTo(ctx context.Context, o options, report func(result)) error {
	body := payloadOf(500)
	ours := func(calls, size int) func(context.Context) (float64, error) {
		return atPlace(o.broker, func(ctx context.Context, at place) (float64, error) {
			return withQueueAt(ctx, at, publishedFast, func(publisher transport.BatchPublisher) error {
				p := publishBench{payload: body}
				return p.inCalls(ctx, publisher, publishPlace{topic: "order", messages: publishedFast},
					calls, size)
			})
		})
	}
	r, err := group{
		bench: "publish", name: "to " + scheme(o.broker), unit: "messages/s", of: byClient,
		cases: []benchCase{
			{byClient, atPlace(o.broker, handPublished(publishedFast, body))},
			{"ours", ours(1, publishedFast)},
			{"ours, 1000 a call", ours(1, publishedAtOnce)},
			{"ours, 1000 a call, 2 at once", ours(2, publishedAtOnce)},
		},
	}.measure(ctx, o)
	if err == nil {
		report(r)
	}
	return err
}

func scheme(address string) string { return strings.Split(address, ":")[0] }

// withQueueAt makes a queue, publishes, and sees that so many messages are in it.
func withQueueAt(
	ctx context.Context, at place, messages int, publish func(transport.BatchPublisher) error,
) (rate float64, err error) {
	opened, err := open.Subscriber(at.address(), "bench", open.Options{Logger: discarded})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	queue := opened.(transport.QueueKeeper) //nolint:forcetypeassert // all of ours are
	if err := queue.KeepQueue(ctx, []string{"order"}); err != nil {
		return 0, err
	}
	publisher, err := open.Publisher(at.address(), open.Options{Logger: discarded})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	start := time.Now()
	if err := publish(publisher); err != nil {
		return 0, err
	}
	rate = float64(messages) / time.Since(start).Seconds()
	waiting, err := queue.Waiting(ctx)
	if err == nil && waiting != int64(messages) {
		err = fmt.Errorf("%d of %d messages are in the queue", waiting, messages)
	}
	return rate, err
}

// benchRelayTo drains a backlog into a queue of a broker.
func benchRelayTo(ctx context.Context, o options, report func(result)) (err error) {
	const rows = 100_000
	b, err := newBacklog(ctx, rows, rows, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop()) }()
	body, err := wire(backlogMessage(rows/2, 0, true))
	if err != nil {
		return err
	}
	drained := func(relays int) func(context.Context) (float64, error) {
		return atPlace(o.broker, func(ctx context.Context, at place) (rate float64, err error) {
			_, err = withQueueAt(ctx, at, rows, func(transport.BatchPublisher) error {
				rate, err = b.drainTo(ctx, at, relays)
				return err
			})
			return rate, err
		})
	}
	r, err := group{
		bench: "relay", name: "100,000 rows, PostgreSQL to " + scheme(o.broker), unit: "messages/s",
		of: byClient,
		cases: []benchCase{
			{byClient, atPlace(o.broker, handPublished(rows, body))},
			{"cqrsync, 1 relay", drained(1)}, {"cqrsync, 2 relays", drained(2)},
		},
	}.measure(ctx, o)
	if err == nil {
		report(r)
	}
	return err
}

// drainTo empties the backlog with relays, each with its own publisher.
func (b *backlog) drainTo(ctx context.Context, at place, relays int) (rate float64, err error) {
	var all []message.Publisher
	defer func() {
		for _, publisher := range all {
			err = errors.Join(err, publisher.Close())
		}
	}()
	took, err := b.drain(ctx, func() message.Publisher {
		publisher, err := open.Publisher(at.address(), open.Options{Logger: discarded})
		if err != nil {
			return nil // which relay.New refuses
		}
		all = append(all, publisher)
		return publisher
	}, relays)
	return float64(b.rows) / took.Seconds(), err
}

// benchReplicaFrom compares ways to bring messages from a broker into a PostgreSQL table.
func benchReplicaFrom(ctx context.Context, o options, report func(result)) (err error) {
	b := &replicaBench{o: o}
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	b.db = db
	if err := b.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	const ideal = "hand-written ideal"
	r, err := group{
		bench: "replica", name: "apply from " + scheme(o.broker), unit: "messages/s", of: ideal,
		cases: []benchCase{
			{"cqrsync", atPlace(o.broker, b.appliedFrom)},
			{ideal, atPlace(o.broker, b.appliedByHand)},
		},
	}.measure(ctx, o)
	if err == nil {
		report(r)
	}
	return err
}

// appliedFrom fills a queue, and measures how fast a replica empties it.
func (b *replicaBench) appliedFrom(ctx context.Context, at place) (rate float64, err error) {
	if err := b.empty(ctx); err != nil {
		return 0, err
	}
	batch := make([]transport.Outgoing, appliedFast)
	for i := range batch {
		m, body, err := orderMessage(i)
		if err != nil {
			return 0, err
		}
		out := message.NewMessage(fmt.Sprint("bench ", i), body)
		out.Metadata = m.Metadata()
		batch[i] = transport.Outgoing{Topic: "order", Message: out}
	}
	_, err = withQueueAt(ctx, at, appliedFast, func(publisher transport.BatchPublisher) error {
		return errors.Join(publisher.PublishBatch(ctx, batch)...)
	})
	if err != nil {
		return 0, err
	}
	return b.timeApplied(ctx, func(ctx context.Context, acked func(time.Time, []byte)) error {
		return b.mirrorAt(ctx, at.address(), consumption{queue: "bench", workers: 1, acked: acked}, nil)
	})
}

// appliedByHand does the same by hand.
func (b *replicaBench) appliedByHand(ctx context.Context, at place) (rate float64, err error) {
	if err := b.empty(ctx); err != nil {
		return 0, err
	}
	bodies := make([][]byte, appliedFast)
	for i := range bodies {
		if _, bodies[i], err = orderMessage(i); err != nil {
			return 0, err
		}
	}
	if err := at.publish(ctx, bodies); err != nil {
		return 0, err
	}
	return b.timeApplied(ctx, func(ctx context.Context, acked func(time.Time, []byte)) error {
		return at.consume(ctx, func(bodies [][]byte) error {
			err := b.upsertMany(ctx, bodies)
			now := time.Now()
			for _, body := range bodies {
				acked(now, body)
			}
			return err
		})
	})
}

// timeApplied returns how many messages a second a consumer of appliedFast of them applies.
func (b *replicaBench) timeApplied(
	ctx context.Context, consume func(context.Context, func(time.Time, []byte)) error,
) (rate float64, err error) {
	running, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	work, running := errgroup.WithContext(running)
	acks := make(chan time.Time, appliedFast)
	start := time.Now()
	work.Go(func() error {
		return ignoreEnd(running, consume(running, func(at time.Time, _ []byte) { acks <- at }))
	})
	var end time.Time
	for n := 0; n < appliedFast; n++ {
		select {
		case end = <-acks:
		case <-running.Done():
			return 0, errors.Join(fmt.Errorf("%d of %d messages were applied within a minute", n,
				appliedFast), work.Wait())
		}
	}
	stop()
	rate = appliedFast / end.Sub(start).Seconds()
	return rate, errors.Join(work.Wait(), b.checkCopies(ctx, appliedFast))
}
