package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
)

// workload is the writing part of a demo.
type workload struct {
	service *orders.Service
	known   known
	// committed is told of every transaction that committed, and how many orders it created.
	committed func(created int)
}

// write creates count orders, among other transactions, from several goroutines. The same seed
// chooses the same transactions; how they interleave is up to the scheduler.
func (w *workload) write(ctx context.Context, count, writers int, seed uint64) (tallies, error) {
	group, ctx := errgroup.WithContext(ctx)
	each := make([]tallies, writers)
	for i := range writers {
		each[i] = make(tallies, len(kinds))
		share := (count + i) / writers // over all i this adds up to count
		source := rand.NewPCG(seed, uint64(i))
		one := &writer{workload: w, random: rand.New(source), left: share, done: each[i]}
		group.Go(func() error { return one.run(ctx) })
	}
	err := group.Wait()
	sum := make(tallies, len(kinds))
	for _, done := range each {
		for kind := range sum {
			sum[kind].transactions += done[kind].transactions
			sum[kind].changes += done[kind].changes
		}
	}
	return sum, err
}

// tallies counts per kind of transaction.
type tallies []tally

type tally struct {
	transactions int
	changes      int // orders changed by what committed
}

// writer is one goroutine of a workload.
type writer struct {
	*workload
	random *rand.Rand
	left   int // orders to create
	done   tallies
}

func (w *writer) run(ctx context.Context) error {
	for w.left > 0 {
		kind := chooseKind(w.random)
		did, err := w.transaction(ctx, kinds[kind].body)
		switch {
		case errors.Is(err, orders.ErrNotFound):
			continue // there is no such order, or another writer was faster and deleted it
		case err != nil && !errors.Is(err, errOnPurpose):
			return fmt.Errorf("%s: %w", kinds[kind].name, err)
		}
		w.known.learn(did)
		w.left -= len(did.created)
		w.done[kind].transactions++
		w.done[kind].changes += did.changes()
		w.committed(len(did.created))
	}
	return nil
}

// transaction runs body as a service would, and returns what was committed.
func (w *writer) transaction(
	ctx context.Context, body func(*writer, context.Context, bun.Tx) (outcome, error),
) (did outcome, err error) {
	err = w.service.Box().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) (err error) {
		did, err = body(w, ctx, tx)
		return err
	})
	if err != nil {
		return outcome{}, err
	}
	return did, nil
}
