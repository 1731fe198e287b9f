// Package demo shows that the example keeps its promise: it writes orders in every way a
// service might, from several goroutines, waits for the replicas, and compares every row. It
// can kill the relay while it does so.
//
// It drives the Orders service from inside, as its own code would; the replicas and the relay run
// beside it, in this process or in others.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/replica"
)

// Config says how much a demo does.
type Config struct {
	// Orders is how many orders are created. Further transactions change, delete and restore them.
	Orders int
	// Writers is how many goroutines write.
	Writers int
	// Seed chooses the transactions.
	Seed uint64
	// Timeout is how long the replicas have, after the last write, to become equal.
	Timeout time.Duration
	// KillRelay is how often Relay is killed, spread over the writes.
	KillRelay int
	// Relay is the process to kill; only needed for that.
	Relay *RelayProcess
	// Subscribed waits until the replicas have subscribed: what is written before that, they may miss.
	Subscribed func(context.Context) error
	// Stats are the counters of the replicas in this process, by name.
	Stats map[string]func() replica.Stats
	// Out gets the report, Progress a progress bar; nil for none.
	Out, Progress io.Writer
}

// Validate returns everything that is wrong with the configuration, by the names of the flags.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Orders >= 1, "--orders %d: want 1 or more", c.Orders)
	check(c.Writers >= 1, "--writers %d: want 1 or more", c.Writers)
	check(c.Timeout > 0, "--timeout %s: want a positive duration", c.Timeout)
	check(c.KillRelay >= 0, "--kill-relay %d: want 0 or more", c.KillRelay)
	return errors.Join(errs...)
}

// ErrDifferent is returned, after the report, when a replica differs from
// the master at the end of the time.
var ErrDifferent = errors.New("the replicas differ from the master")

// demo is one run.
type demo struct {
	Config
	service   *orders.Service
	databases Databases
	created   atomic.Int64
}

// Run writes, waits, compares and reports.
func Run(ctx context.Context, service *orders.Service, databases Databases, config Config) error {
	d := &demo{Config: config, service: service, databases: databases}
	if err := d.Subscribed(ctx); err != nil {
		return fmt.Errorf("wait for the replicas: %w", err)
	}
	fmt.Fprintf(d.Out, "writing %d orders, among other transactions, by %d writers, seed %d\n",
		d.Orders, d.Writers, d.Seed)
	begin := time.Now()
	done, took, err := d.write(ctx)
	if err != nil {
		return fmt.Errorf("write orders: %w", err)
	}
	d.reportWritten(done, took)
	result, err := d.wait(ctx)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	total := time.Since(begin)
	d.reportApplied(total)
	if len(result.Differences) > 0 {
		fmt.Fprintf(d.Out, "after %s:\n  %s\n", d.Timeout, strings.Join(result.Differences, "\n  "))
		return fmt.Errorf("%w after --timeout %s", ErrDifferent, d.Timeout)
	}
	fmt.Fprintf(d.Out, "equal %s after the last write\n", (total - took).Round(time.Millisecond))
	fmt.Fprintf(d.Out, "converged: orders=%d webhooks=%d stats=%d in %s\n",
		result.Orders, result.Webhooks, result.Stats, total.Round(time.Millisecond))
	return nil
}

// write runs the workload, which takes some time, and beside it kills
// the relay, which may take longer.
func (d *demo) write(ctx context.Context) (done tallies, took time.Duration, err error) {
	begin, progress := time.Now(), newProgress(d.Progress, d.Orders)
	load := &workload{service: d.service, committed: func(created int) {
		d.created.Add(int64(created))
		progress.add(created)
	}}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		done, err = load.write(ctx, d.Orders, d.Writers, d.Seed)
		took = time.Since(begin)
		progress.finish()
		return err
	})
	group.Go(func() error { return d.killRelay(ctx) })
	err = group.Wait()
	return done, took, err
}

// killRelay kills the relay at even distances between the created orders. Where the relay cannot
// keep up with the writers, the last kills come while it catches up.
func (d *demo) killRelay(ctx context.Context) error {
	for i := 1; i <= d.KillRelay; i++ {
		threshold := int64(d.Orders) * int64(i) / int64(d.KillRelay+1)
		for d.created.Load() < threshold {
			if err := sleep(ctx, 5*time.Millisecond); err != nil {
				return err
			}
		}
		if err := d.Relay.Kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

// wait compares until there is no difference or the time is up.
func (d *demo) wait(ctx context.Context) (Comparison, error) {
	const worst = 10 // as many differences as a person reads
	deadline := time.Now().Add(d.Timeout)
	for {
		result, err := d.databases.Compare(ctx, 1)
		if err != nil || len(result.Differences) == 0 {
			return result, err
		}
		if time.Now().After(deadline) {
			return d.databases.Compare(ctx, worst)
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return result, err
		}
	}
}

func sleep(ctx context.Context, pause time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(pause):
		return nil
	}
}
