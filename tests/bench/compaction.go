package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// benchCompaction catches up after an outage: many revisions of few keys, and fewer of more keys,
// with and without dropping what newer ones replace.
func benchCompaction(ctx context.Context, o options, report func(result)) error {
	for _, keys := range []int{5_000, 50_000} {
		if err := catchUp(ctx, o, keys, report); err != nil {
			return err
		}
	}
	return nil
}

func catchUp(ctx context.Context, o options, keys int, report func(result)) (err error) {
	const rows = 500_000
	name := fmt.Sprintf("500,000 rows of %d keys, PostgreSQL to a classic queue", keys)
	if !strings.Contains(name, o.only) {
		return nil
	}
	address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
	if address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	b, err := newBacklog(ctx, rows, keys, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.drop()) }()
	r := relayBench{publishBench{address: address, kind: "classic"}, b}
	drained := func(keep string) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			if err := b.exec(ctx, "ALTER TABLE full_outbox DROP COLUMN keep, "+
				"ADD COLUMN keep boolean NOT NULL DEFAULT "+keep); err != nil {
				return 0, err
			}
			return r.caughtUp(ctx)
		}
	}
	result, err := group{
		bench: "compaction", name: name, unit: "rows/s", of: "every revision",
		cases: []benchCase{{"every revision", drained("true")}, {"compacted", drained("false")}},
	}.measure(ctx, o)
	if err == nil {
		report(result)
	}
	return err
}

// caughtUp drains the backlog and does not ask how many messages that took.
func (r relayBench) caughtUp(ctx context.Context) (float64, error) {
	var took time.Duration
	_, err := r.rate(anyNumber, func(ctx context.Context, at publishPlace) (err error) {
		publisher, closeAll, err := r.publishers(at)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeAll()) }()
		took, err = r.backlog.drain(ctx, publisher, 1)
		return err
	})(ctx)
	return float64(r.backlog.rows) / took.Seconds(), err
}
