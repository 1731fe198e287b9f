package demo

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
)

// kinds are the transactions that writers run, and how often each, in percent.
var kinds = []struct {
	name    string
	percent int
	body    func(*writer, context.Context, bun.Tx) (outcome, error)
}{
	{"create", 40, (*writer).create},
	{"update", 30, (*writer).update},
	{"delete", 8, (*writer).remove},
	{"create again", 5, (*writer).createAgain},
	{"several orders", 8, (*writer).several},
	{"savepoint rolled back", 5, (*writer).savepoint},
	{"rolled back", 4, (*writer).rolledBack},
}

func chooseKind(random *rand.Rand) int {
	at := random.IntN(100)
	for kind := range kinds {
		if at -= kinds[kind].percent; at < 0 {
			return kind
		}
	}
	return 0
}

// errOnPurpose rolls a transaction or a savepoint back.
var errOnPurpose = errors.New("rolled back on purpose")

func (w *writer) create(ctx context.Context, tx bun.Tx) (outcome, error) {
	order := w.draw()
	err := orders.Insert(ctx, tx, order)
	return outcome{created: []int64{order.ID}}, err
}

func (w *writer) update(ctx context.Context, tx bun.Tx) (outcome, error) {
	return w.change(ctx, tx, w.known.some(w.random, 1))
}

func (w *writer) remove(ctx context.Context, tx bun.Tx) (outcome, error) {
	id, err := w.known.takeLive(w.random)
	if err != nil {
		return outcome{}, err
	}
	return outcome{deleted: []int64{id}}, orders.Delete(ctx, tx, id)
}

// createAgain brings a deleted order back under its old id: the key's
// revision must go on, not start again.
func (w *writer) createAgain(ctx context.Context, tx bun.Tx) (outcome, error) {
	id, err := w.known.takeDeleted(w.random)
	if err != nil {
		return outcome{}, err
	}
	order := w.draw()
	order.ID = id
	return outcome{restored: []int64{id}}, orders.Insert(ctx, tx, order)
}

// several creates and changes orders in one transaction, one of them twice.
func (w *writer) several(ctx context.Context, tx bun.Tx) (outcome, error) {
	did, err := w.change(ctx, tx, w.known.some(w.random, 3))
	if err != nil {
		return outcome{}, err
	}
	for range min(2, w.left) {
		order := w.draw()
		if err := orders.Insert(ctx, tx, order); err != nil {
			return outcome{}, err
		}
		did.created = append(did.created, order.ID)
	}
	_, err = w.change(ctx, tx, did.created[:1])
	return did, err
}

// savepoint changes one order for good; what it does to another, and to a new one, it takes back.
func (w *writer) savepoint(ctx context.Context, tx bun.Tx) (outcome, error) {
	ids := w.known.some(w.random, 2)
	did, err := w.change(ctx, tx, ids[:min(1, len(ids))])
	if err != nil {
		return outcome{}, err
	}
	err = tx.RunInTx(ctx, nil, func(_ context.Context, tx bun.Tx) error {
		if _, err := w.change(ctx, tx, ids[1:]); err != nil && !errors.Is(err, orders.ErrNotFound) {
			return err
		}
		if err := orders.Insert(ctx, tx, w.draw()); err != nil {
			return err
		}
		return errOnPurpose
	})
	if !errors.Is(err, errOnPurpose) {
		return outcome{}, fmt.Errorf("roll back to savepoint: %w", err)
	}
	return did, nil
}

// rolledBack does all it can and takes everything back: no replica may ever hear of it.
func (w *writer) rolledBack(ctx context.Context, tx bun.Tx) (outcome, error) {
	if _, err := w.several(ctx, tx); err != nil {
		return outcome{}, err
	}
	return outcome{}, errOnPurpose
}

// change updates the orders with these ids. Ids come sorted: two transactions that lock the same
// rows in the same order wait for each other, in different orders they deadlock.
func (w *writer) change(ctx context.Context, tx bun.Tx, ids []int64) (outcome, error) {
	if len(ids) == 0 {
		return outcome{}, orders.ErrNotFound
	}
	for _, id := range ids {
		order := w.draw()
		order.ID = id
		if err := orders.Update(ctx, tx, order); err != nil {
			return outcome{}, err
		}
	}
	return outcome{updated: ids}, nil
}

var (
	customers = []string{
		"Ada", "Brontë & Söhne", "Curie", "d'Arc", "Émilie", "Faraday \"Mike\"", "高橋", "Hypatia",
	}
	skus = []string{"anvil", "book", "candle", "dice", "easel", "flute", "globe", "hammock"}
)

// draw makes up an order with one to four lines.
func (w *writer) draw() *orders.Order {
	order := &orders.Order{
		Customer: pick(w.random, customers), Status: pick(w.random, orders.Statuses),
	}
	for range 1 + w.random.IntN(4) {
		order.Lines = append(order.Lines, &orders.Line{
			SKU: pick(w.random, skus), Quantity: 1 + w.random.Int64N(9), Price: w.random.Int64N(100_00),
		})
	}
	return order
}

func pick[T any](random *rand.Rand, from []T) T { return from[random.IntN(len(from))] }
