package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/network"
)

// distances are how long each way takes, from the service to its database and to the broker: an
// answer comes after twice as long. All cases go through a proxy.
var distances = []time.Duration{0, 20 * time.Millisecond, 100 * time.Millisecond}

// benchDelay compares what relay and replica do beside their database and broker with what they do
// far from both.
func benchDelay(ctx context.Context, o options, report func(result)) error {
	const rows, messages = 50_000, 3_000 // as many as a minute is enough for
	address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
	if address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	for _, part := range []struct {
		name  string
		cases delayed
	}{
		{fmt.Sprintf("a backlog of %d rows to a classic queue", rows), delayedRelay(rows)},
		{fmt.Sprintf("apply %d messages, 1 worker", messages), delayedReplica(messages)},
	} {
		if !strings.Contains(part.name, o.only) {
			continue
		}
		cases, done, err := part.cases(ctx, o, address)
		if err != nil {
			return err
		}
		r, err := group{
			bench: "delay", name: part.name, unit: "messages/s", of: distanceName(0), cases: cases,
		}.measure(ctx, o)
		if err := errors.Join(err, done()); err != nil {
			return err
		}
		report(r)
	}
	return nil
}

// delayed prepares a part: its cases, and what removes what they need.
type delayed func(
	ctx context.Context, o options, broker string,
) (cases []benchCase, done func() error, err error)

func distanceName(d time.Duration) string {
	return fmt.Sprintf("%d ms each way", d.Milliseconds())
}

// delayedRelay drains a backlog with a relay that is far from its database and the broker.
func delayedRelay(rows int) delayed {
	return func(ctx context.Context, _ options, address string) ([]benchCase, func() error, error) {
		b, err := newBacklog(ctx, rows, rows, true)
		if err != nil {
			return nil, nil, err
		}
		payload, err := wire(backlogMessage(rows/2, 0, true))
		if err != nil {
			return nil, nil, errors.Join(err, b.drop())
		}
		near := relayBench{publishBench{address: address, kind: "classic", payload: payload}, b}
		var cases []benchCase
		for _, d := range distances {
			measure := func(ctx context.Context) (rate float64, err error) {
				w, err := newWay(b.url, address, d)
				if err != nil {
					return 0, err
				}
				defer func() { b.far = nil; err = errors.Join(err, w.close()) }()
				b.far = w.db
				far := near
				far.address = w.broker
				return near.timed(rows, func(
					ctx context.Context, at publishPlace,
				) (took time.Duration, err error) {
					publisher, closeAll, err := far.publishers(at)
					if err != nil {
						return 0, err
					}
					defer func() { err = errors.Join(err, closeAll()) }()
					return b.drain(ctx, publisher, 1)
				})(ctx)
			}
			cases = append(cases, benchCase{distanceName(d), measure})
		}
		return cases, b.drop, nil
	}
}

// delayedReplica empties a queue with a replica that is far from its database and the broker.
func delayedReplica(messages int) delayed {
	return func(ctx context.Context, o options, address string) ([]benchCase, func() error, error) {
		at, db, drop, err := openSchema(ctx)
		if err != nil {
			return nil, nil, err
		}
		near := &replicaBench{o: o, address: address, db: db}
		if err := near.prepare(ctx); err != nil {
			return nil, nil, errors.Join(err, drop())
		}
		var cases []benchCase
		for _, d := range distances {
			measure := func(ctx context.Context) (rate float64, err error) {
				w, err := newWay(at, address, d)
				if err != nil {
					return 0, err
				}
				defer func() { err = errors.Join(err, w.close()) }()
				far := &replicaBench{o: o, address: w.broker, db: w.db}
				return near.rate(messages, 1, far.cqrsync)(ctx)
			}
			cases = append(cases, benchCase{distanceName(d), measure})
		}
		return cases, drop, nil
	}
}

// way leads a service to its database and to the broker.
type way struct {
	db      *bun.DB
	broker  string
	proxies []*network.Proxy
}

func newWay(databaseURL, brokerURL string, delay time.Duration) (w *way, err error) {
	w = &way{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	databaseURL, err = w.through(databaseURL, delay)
	if err != nil {
		return w, err
	}
	if w.broker, err = w.through(brokerURL, delay); err != nil {
		return w, err
	}
	w.db, err = database.Open(databaseURL)
	return w, err
}

func (w *way) through(rawURL string, delay time.Duration) (string, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "", errors.New("the service's address is not a URL")
	}
	p, err := network.NewProxy("127.0.0.1:0", u.Host, delay)
	if err != nil {
		return "", err
	}
	w.proxies = append(w.proxies, p)
	u.Host = p.Address()
	return u.String(), nil
}

func (w *way) close() error {
	var errs []error
	if w.db != nil {
		errs = append(errs, w.db.Close())
	}
	for _, p := range w.proxies {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
