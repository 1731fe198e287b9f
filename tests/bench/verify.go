package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// benchVerify compares a master and a replica over a broker in memory, beside a plain loop over
// both ledgers, and beside what the pipe of a diff carries.
func benchVerify(ctx context.Context, o options, report func(result)) (err error) {
	p, err := newPair(ctx, o.rows, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	v, err := newVerification(ctx, p)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, v.stop()) }()
	var carried, took float64
	for _, differing := range []int{0, 10} {
		if err := p.spoil(ctx, o.rows, differing); err != nil {
			return err
		}
		r, err := v.beside(o.rows, differing, &carried, &took).measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
	}
	_, piped, _, err := p.diff(ctx, o.rows, 10)
	if err != nil {
		return err
	}
	report(single("verify", "bytes both ways, 10 differing", "bytes", "diff", map[string]float64{
		"diff": piped, "verification": carried,
	}))
	report(single("verify", "once an hour, both sides", "% of one core", "all", map[string]float64{
		"all": took / time.Hour.Seconds() * 100,
	}))
	return v.memory(ctx, o, report)
}

// verification is a pair that talks over a broker in memory.
type verification struct {
	*pair

	admin *admin.Master
	sent  atomic.Int64 // bytes both ways
	stop  func() error
}

func newVerification(ctx context.Context, p *pair) (*verification, error) {
	v := &verification{pair: p}
	tables, err := admin.Open(p.master, admin.Config{})
	if err != nil {
		return nil, err
	}
	if v.admin, err = tables.Master(ctx); err != nil {
		return nil, err
	}
	broker, quiet := memory.New(), slog.New(slog.DiscardHandler)
	answerer, err := converge.NewAnswerer(p.box, converge.Broker{
		Publisher: weighed{broker.Publisher(), &v.sent},
		Inbox:     func() (message.Subscriber, error) { return broker.Inbox(), nil },
		Queue:     func(name string) (converge.Queue, error) { return broker.Subscriber(name), nil },
	}, converge.AnswererConfig{Pace: pace, VerifyEvery: -1, Logger: quiet})
	if err != nil {
		return nil, err
	}
	reporter, err := converge.NewReporter(p.rep, weighed{broker.Publisher(), &v.sent},
		converge.ReporterConfig{
			Pace: pace, Grace: time.Millisecond, Verify: converge.ReportOnly, Logger: quiet,
		})
	if err != nil {
		return nil, err
	}
	running, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	errs := make(chan error, 3)
	copies := func(ctx context.Context) error { return p.rep.Run(ctx, broker.Subscriber("bench")) }
	for _, run := range []func(context.Context) error{answerer.Run, reporter.Run, copies} {
		all.Go(func() { errs <- run(running) })
	}
	v.stop = func() error {
		cancel()
		all.Wait()
		return errors.Join(<-errs, <-errs, <-errs)
	}
	for err = errNotKnown; errors.Is(err, errNotKnown); {
		err = v.known(ctx)
	}
	return v, err
}

// pace is how often both sides of a bench speak.
const pace = 100 * time.Millisecond

var errNotKnown = errors.New("the replica is not known yet")

func (v *verification) known(ctx context.Context) error {
	tick := time.NewTimer(pace)
	defer tick.Stop()
	select {
	case <-tick.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	all, err := v.admin.Replicas(ctx)
	if err == nil && (len(all) == 0 || all[0].LagSeconds == nil) {
		err = errNotKnown
	}
	return err
}

// run compares all, and returns how long that took and what was sent meanwhile.
func (v *verification) run(
	ctx context.Context, rows, differing int,
) (took time.Duration, bytes float64, err error) {
	before := v.sent.Load()
	results, err := v.admin.Verify(ctx, "bench", []string{"order"})
	if err != nil {
		return 0, 0, err
	}
	r, found := results[0], int64(0)
	for _, n := range r.Found {
		found += n
	}
	if r.Keys != int64(rows) || found != int64(differing) {
		err = fmt.Errorf("the verification compared %d rows and found %v, want %d and %d",
			r.Keys, r.Found, rows, differing)
	}
	return r.Ended.Sub(r.Started), float64(v.sent.Load() - before), err
}

func (v *verification) beside(rows, differing int, carried, seconds *float64) group {
	return group{
		bench: "verify", name: fmt.Sprintf("%d rows, %d differing", rows, differing),
		unit: "rows/s", of: "plain loop",
		cases: []benchCase{
			{"plain loop", func(ctx context.Context) (float64, error) {
				return v.plainLoop(ctx, rows, differing)
			}},
			{"verification", func(ctx context.Context) (float64, error) {
				took, bytes, err := v.run(ctx, rows, differing)
				*carried, *seconds = bytes, took.Seconds()
				return float64(rows) / took.Seconds(), err
			}},
		},
	}
}

// memory compares how much is held with a pair that has a tenth of the rows.
func (v *verification) memory(ctx context.Context, o options, report func(result)) (err error) {
	small, err := newPair(ctx, o.rows/10, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, small.close()) }()
	few, err := newVerification(ctx, small)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, few.stop()) }()
	stop := samplePeak()
	if _, _, err := few.run(ctx, o.rows/10, 0); err != nil {
		return err
	}
	tenth := stop()
	stop = samplePeak()
	if _, _, err := v.run(ctx, o.rows, 10); err != nil {
		return err
	}
	report(single("verify", "peak memory", "MB", "a tenth of the rows", map[string]float64{
		"a tenth of the rows": tenth / 1e6, "all rows": stop() / 1e6,
	}))
	return nil
}

// weighed counts the bytes that are published.
type weighed struct {
	transport.BatchPublisher

	sent *atomic.Int64
}

func (w weighed) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	for _, out := range batch {
		w.sent.Add(int64(len(out.Message.Payload)))
	}
	return w.BatchPublisher.PublishBatch(ctx, batch)
}
