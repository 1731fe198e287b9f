package manifest_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// Whoever writes at once, at the end the copies are what the filter lets through, with what is
// nested in it now.
func TestFilterAndRelationsHoldUnderWritersAtOnce(t *testing.T) {
	const text = `models: {cart: {table: carts, filter: "name <> 'x'", relations: {
		items: {table: cart_items, key: cart_id, columns: [id, qty], many: true}}}}`
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := uncapturedWith(t, newURL(t), cartTables, text)
			c.install()
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			ctx, stop := context.WithCancel(t.Context())
			swept := make(chan error, 1)
			go func() { swept <- c.box.RunSweep(ctx, time.Millisecond) }()
			const writers = 4
			failed := make(chan error, writers)
			var group sync.WaitGroup
			for w := range writers {
				group.Go(func() { failed <- c.writeCarts(rand.New(rand.NewPCG(seed, uint64(w))), w) })
			}
			group.Wait()
			stop()
			require.NoError(t, <-swept)
			for range writers {
				require.NoError(t, <-failed)
			}
			_, err := c.box.Sweep(t.Context())
			require.NoError(t, err)
			c.requireCarts()
		})
	}
}

// writeCarts writes the same three carts as the others, and items of its own that belong to them.
func (c captured) writeCarts(random *rand.Rand, writer int) error {
	for n := range 15 {
		cart, item := random.IntN(3)+1, 10*writer+random.IntN(3)
		name := []string{"x", "open"}[random.IntN(2)]
		statements := [][]string{
			{fmt.Sprintf("UPDATE carts SET name = '%s' WHERE id = %d", name, cart)},
			{fmt.Sprintf("DELETE FROM carts WHERE id = %d", cart)},
			{
				fmt.Sprintf("DELETE FROM carts WHERE id = %d", cart),
				fmt.Sprintf("INSERT INTO carts VALUES (%d, '%s')", cart, name),
			},
			{
				fmt.Sprintf("DELETE FROM cart_items WHERE id = %d", item),
				fmt.Sprintf("INSERT INTO cart_items VALUES (%d, %d, 's', %d)", item, cart, n),
			},
			{fmt.Sprintf("UPDATE cart_items SET qty = %d WHERE id = %d", n, item)},
		}[random.IntN(5)]
		for began := time.Now(); ; {
			err := c.try(statements...)
			if err == nil {
				break
			}
			if !gaveWay(err) || time.Since(began) > time.Minute {
				return err
			}
		}
	}
	return nil
}

// gaveWay says that a transaction met another one.
func gaveWay(err error) bool {
	for _, part := range []string{
		"40P01", "40001", "23505", "1213", "1205", "1020", "1062", "SQLITE_BUSY", "database is locked", "UNIQUE",
	} {
		if strings.Contains(err.Error(), part) {
			return true
		}
	}
	return false
}

// requireCarts applies the messages, and compares with the tables.
func (c captured) requireCarts() {
	c.Helper()
	copies, revisions := map[string]string{}, map[string]int64{}
	for _, m := range messagesOf(c.T, c.db) {
		if last, known := revisions[m.Key]; known {
			require.Greater(c, m.Revision, last, "key %s", m.Key)
		}
		revisions[m.Key] = m.Revision
		if delete(copies, m.Key); m.Signal == "SAVE" {
			copies[m.Key] = m.Data
		}
	}
	var carts []struct {
		ID   int64
		Name string
	}
	var items []struct{ ID, CartID, Qty int64 }
	require.NoError(c, c.db.NewRaw("SELECT id, name FROM carts WHERE name <> 'x'").Scan(c.Context(), &carts))
	require.NoError(c, c.db.NewRaw("SELECT id, cart_id, qty FROM cart_items ORDER BY id").Scan(c.Context(), &items))
	want := map[string]string{}
	for _, cart := range carts {
		var nested []string
		for _, item := range items {
			if item.CartID == cart.ID {
				nested = append(nested, fmt.Sprintf(`{"id":%d,"qty":%d}`, item.ID, item.Qty))
			}
		}
		want[fmt.Sprint(cart.ID)] = fmt.Sprintf(`{"id":%d,"items":[%s],"name":"%s"}`, cart.ID, strings.Join(nested, ","), cart.Name)
	}
	require.Equal(c, want, copies)
	require.NotEmpty(c, revisions)
}
