//go:build unix

package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
)

const (
	keysPerModel  = 40
	writerThreads = 3
	writerPause   = 15 * time.Millisecond // a transaction of a thread begins this often at most
	writerTimeout = 6 * time.Second       // as an application bounds its transactions
)

// What a writer says about a transaction, as a line of its standard output before the transaction's
// name. One of which it said that it began, and nothing else, may have committed or not.
const (
	saidCommitted  = "committed"
	saidUnknown    = "unknown" // the end failed: it may have committed or not
	saidRolledBack = "rolledback"
)

// writer is a service that changes rows of the master.
type writer struct {
	box  *outbox.Box
	name string
}

func newWriter(db *bun.DB, name string) (*writer, error) {
	box, err := outbox.New(db, outbox.Config{})
	if err != nil {
		return nil, err
	}
	return &writer{box, name}, errors.Join(
		outbox.Register[item](box, itemModel),
		outbox.Register[entry](box, entryModel, outbox.EveryRevision()))
}

// run writes until ctx ends.
func (w *writer) run(ctx context.Context, seed uint64) error {
	var threads sync.WaitGroup
	for thread := range writerThreads {
		threads.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(thread)))
			often := time.NewTicker(writerPause)
			defer often.Stop()
			for n := 0; ctx.Err() == nil; n++ {
				w.write(context.WithoutCancel(ctx), random, fmt.Sprintf("%s.%d.%d", w.name, thread, n))
				<-often.C
			}
		})
	}
	threads.Wait()
	return nil
}

// errUndone makes a transaction roll back when it has done everything.
var errUndone = errors.New("the transaction thinks better of it")

// write runs one transaction and says what became of it.
func (w *writer) write(ctx context.Context, random *rand.Rand, txn string) {
	ctx, cancel := context.WithTimeout(outbox.WithCorrelationID(ctx, txn), writerTimeout)
	defer cancel()
	keys := drawKeys(random)
	undo := random.IntN(12) == 0
	done := false
	err := w.box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		done = false
		for _, k := range keys {
			if err := change(ctx, tx, random, txn, k); err != nil {
				return fmt.Errorf("change %s: %w", k, err)
			}
		}
		if undo {
			return errUndone
		}
		done = true
		return nil
	})
	switch {
	case err == nil:
		say(saidCommitted, txn)
	case done:
		say(saidUnknown, txn)
	default:
		say(saidRolledBack, txn)
	}
	if err != nil && !errors.Is(err, errUndone) {
		fmt.Fprintf(os.Stderr, "%s: %v\n", txn, err)
	}
}

// say writes a line at once, so that it is read even if the process is killed after it.
func say(what, about string) { fmt.Println(what, about) }

// drawKeys draws up to four keys, in the order in which everybody locks them.
func drawKeys(random *rand.Rand) (keys []key) {
	for range 1 + random.IntN(4) {
		model := []string{entryModel, itemModel}[random.IntN(2)]
		id := 1 + min(random.IntN(keysPerModel), random.IntN(keysPerModel)) // some more often than others
		keys = append(keys, key{model, fmt.Sprint(id)})
	}
	slices.SortFunc(keys, func(a, b key) int {
		return cmp.Or(cmp.Compare(a.model, b.model), cmp.Compare(a.id(), b.id()))
	})
	return slices.Compact(keys)
}

// change locks a key, changes or deletes its row in one of several ways, and writes that down.
func change(ctx context.Context, tx bun.Tx, random *rand.Rand, txn string, k key) error {
	c := &counter{Model: k.model, ID: k.id()}
	if err := tx.NewSelect().Model(c).WherePK().For("UPDATE").Scan(ctx); err != nil {
		return err
	}
	c.Seq++
	row := Content{ID: c.ID, Seq: c.Seq, Txn: txn, Note: final}
	rough := row
	rough.Note = draft
	remove := c.Live && random.IntN(5) == 0
	var steps []func() error
	then := func(step func() error) { steps = append(steps, step) }
	insert := func(r Content) { then(func() error { return insertRow(ctx, tx, k.model, r) }) }
	update := func(r Content) { then(func() error { return updateRow(ctx, tx, k.model, r) }) }
	erase := func() { then(func() error { return deleteRow(ctx, tx, k.model, row) }) }
	several := random.IntN(3) == 0
	switch {
	case remove && several:
		update(rough)
		erase()
	case remove:
		erase()
	case c.Live && several && random.IntN(2) == 0: // deleted and created again is a save
		erase()
		insert(row)
	case c.Live && several:
		update(rough)
		update(row)
	case c.Live:
		update(row)
	case several:
		insert(rough)
		update(row)
	default:
		insert(row)
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	c.Live = !remove
	if _, err := tx.NewUpdate().Model(c).WherePK().Exec(ctx); err != nil {
		return err
	}
	done := &journalRow{Model: c.Model, ID: c.ID, Seq: c.Seq, Txn: txn, Deleted: remove}
	_, err := tx.NewInsert().Model(done).Exec(ctx)
	return err
}

// rowOf is the row of a model as bun takes it.
func rowOf(model string, c Content) any {
	if model == itemModel {
		return &item{Content: c}
	}
	return &entry{Content: c}
}

func insertRow(ctx context.Context, tx bun.Tx, model string, c Content) error {
	_, err := tx.NewInsert().Model(rowOf(model, c)).Exec(ctx)
	return err
}

func updateRow(ctx context.Context, tx bun.Tx, model string, c Content) error {
	return one(tx.NewUpdate().Model(rowOf(model, c)).WherePK().Exec(ctx))
}

func deleteRow(ctx context.Context, tx bun.Tx, model string, c Content) error {
	return one(tx.NewDelete().Model(rowOf(model, c)).WherePK().Exec(ctx))
}
