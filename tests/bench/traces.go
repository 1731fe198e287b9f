package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

const (
	withoutTraces = "without otel"
	withTraces    = "with otel, not sampled"
	tracedRows    = 40_000 // of a relay's round
	// notRecorded is what a request's span leaves in a message when nobody records it.
	notRecorded = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
)

// benchTraces compares a transaction, a relay and a replica without module otel and with it, where
// no trace is sampled. The messages carry the header traceparent in both cases of a relay and of a
// replica, so that the difference is what the module does. The process's own processor time says
// more than the clock does on a machine that is busy.
func benchTraces(ctx context.Context, o options, report func(result)) error {
	for _, part := range []struct {
		name, unit string
		run        func(*tracesBench, context.Context) error
	}{
		{"a transaction of one row, PostgreSQL", "transactions/s", (*tracesBench).write},
		{"relay, 40,000 rows to a classic queue", "messages/s", (*tracesBench).relay},
		{"replica, 40,000 messages, 4 workers", "messages/s", (*tracesBench).replica},
	} {
		if !strings.Contains(part.name, o.only) {
			continue
		}
		b := &tracesBench{o: o, name: part.name, unit: part.unit, report: report,
			used: map[string][]float64{}}
		b.address = os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
		if b.address == "" {
			return fmt.Errorf("set %s to the URL of a RabbitMQ broker",
				dbtest.Variable(dbtest.RabbitMQ))
		}
		if err := part.run(b, ctx); err != nil {
			return err
		}
	}
	return nil
}

type tracesBench struct {
	o                   options
	name, unit, address string
	report              func(result)
	used                map[string][]float64 // case → processor time per message, a value per round
	// taken is what one measurement used, where not all of it counts.
	taken time.Duration
}

// compare measures both cases, and reports what they reach by the clock and use of the processor.
func (b *tracesBench) compare(
	ctx context.Context, without, with func(context.Context) (perSecond, n float64, err error),
) error {
	measured := func(name string, run func(context.Context) (float64, float64, error)) benchCase {
		return benchCase{name, func(ctx context.Context) (float64, error) {
			b.taken = 0
			before := processTime()
			rate, n, err := run(ctx)
			if b.taken == 0 {
				b.taken = processTime() - before
			}
			b.used[name] = append(b.used[name], float64(b.taken.Nanoseconds())/1000/max(n, 1))
			return rate, err
		}}
	}
	g := group{bench: "traces", name: b.name, unit: b.unit, of: withoutTraces, cases: []benchCase{
		measured(withoutTraces, without), measured(withTraces, with),
	}}
	r, err := g.measure(ctx, b.o)
	if err != nil {
		return err
	}
	b.report(r)
	g.name, g.unit = b.name+", processor", "µs of this process each"
	b.report(result{group: g, values: b.used})
	return nil
}

// write commits an insert of one row, by one writer.
func (b *tracesBench) write(ctx context.Context) (err error) {
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	w := &writeBench{writers: 1, rows: 1, o: b.o}
	if err := w.prepare(ctx, db); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	tracing := notSampling()
	traced := bun.NewDB(db.DB, db.Dialect())
	box, err := outbox.New(traced, outbox.Config{
		Trace: tracing.Transaction, Headers: tracing.Headers,
	})
	if err != nil {
		return err
	}
	if err := outbox.Register[trackedOrder](box, "order"); err != nil {
		return err
	}
	through := func(box *outbox.Box) func(context.Context) (float64, float64, error) {
		return func(ctx context.Context) (float64, float64, error) {
			w.box = box
			first := w.next.Load()
			rate, err := w.rate(ctx, w.captured)
			return rate, float64(w.next.Load() - first), err
		}
	}
	return b.compare(ctx, through(w.box), through(box))
}

// relay drains the same backlog with one relay.
func (b *tracesBench) relay(ctx context.Context) (err error) {
	log, err := newBacklog(ctx, tracedRows, tracedRows, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.drop()) }()
	err = log.exec(ctx, `UPDATE full_outbox SET headers = '{"traceparent":"`+notRecorded+`"}'`)
	if err != nil {
		return err
	}
	r := relayBench{publishBench{address: b.address, kind: "classic"}, log}
	by := func(with publishersAt) func(context.Context) (float64, float64, error) {
		drained := r.drained(1, with)
		return func(ctx context.Context) (float64, float64, error) {
			rate, err := drained(ctx)
			return rate, tracedRows, err
		}
	}
	return b.compare(ctx, by(r.publishers), by(r.tracedPublishers))
}

// replica mirrors the same messages. Filling the queue is not counted.
func (b *tracesBench) replica(ctx context.Context) (err error) {
	db, drop, err := openPostgres(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, drop()) }()
	r := &replicaBench{o: b.o, address: b.address, db: db}
	if err := r.prepare(ctx); err != nil {
		return fmt.Errorf("prepare: %w", err)
	}
	by := func(consume consumer) func(context.Context) (float64, float64, error) {
		applied := r.rate(appliedFast, 4, func(ctx context.Context, c consumption) error {
			before := processTime()
			err := consume(ctx, c)
			b.taken = processTime() - before
			return err
		})
		return func(ctx context.Context) (float64, float64, error) {
			rate, err := applied(ctx)
			return rate, appliedFast, err
		}
	}
	return b.compare(ctx, by(r.cqrsync), by(r.traced))
}
