package demo

import (
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/examples/orders/stats"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

func TestKindsOfTransactionsAddUpToAHundredPercent(t *testing.T) {
	t.Parallel()
	sum := 0
	for _, kind := range kinds {
		sum += kind.percent
	}
	require.Equal(t, 100, sum)
}

func TestEveryKindOfTransactionIsWritten(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		created := 0
		done := write(t, db, 3, 100, func(n int) { created += n })
		require.Equal(t, 100, created)
		for kind, tally := range done {
			require.NotZero(t, tally.transactions, kinds[kind].name)
		}
	})
}

func TestTheSeedChoosesTheTransactions(t *testing.T) {
	t.Parallel()
	outcome := func(seed uint64) (all []string) {
		db := dbtest.Open(t, dbtest.SQLiteURL(t))
		write(t, db, seed, 30, func(int) {})
		page, err := orders.Page(t.Context(), db, 0, 1000)
		require.NoError(t, err)
		for _, order := range page {
			order.CreatedAt, order.UpdatedAt = time.Time{}, time.Time{}
			text, err := json.Marshal(order)
			require.NoError(t, err)
			all = append(all, string(text))
		}
		return all
	}
	require.Equal(t, outcome(1), outcome(1))
	require.NotEqual(t, outcome(1), outcome(2))
}

// write runs a workload with one writer.
func write(t *testing.T, db *bun.DB, seed uint64, count int, committed func(int)) tallies {
	service, err := orders.New(t.Context(), db, orders.Config{})
	require.NoError(t, err)
	load := &workload{service: service, committed: committed}
	done, err := load.write(t.Context(), count, 1, seed)
	require.NoError(t, err)
	return done
}

func TestAComparisonFindsEveryDifferenceInBothDirections(t *testing.T) {
	t.Parallel()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		d := Databases{Orders: db, Webhooks: db, Stats: db} // the tables have different names
		service, err := orders.New(t.Context(), db, orders.Config{})
		require.NoError(t, err)
		_, err = webhooks.New(t.Context(), db, "webhooks", webhooks.Config{})
		require.NoError(t, err)
		_, err = stats.New(t.Context(), db, "stats", stats.Config{})
		require.NoError(t, err)
		require.NoError(t, service.Box().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			for range pageSize + 1 { // more than one page
				order := &orders.Order{Customer: "Ada", Status: "new", Lines: []*orders.Line{{SKU: "book", Quantity: 1, Price: 5}}}
				if err := orders.Insert(ctx, tx, order); err != nil {
					return err
				}
			}
			return nil
		}))
		copyAll(t, d)
		same, err := d.Compare(t.Context(), 10)
		require.NoError(t, err)
		require.Equal(t, Comparison{Orders: pageSize + 1, Webhooks: pageSize + 1, Stats: pageSize + 1}, same)

		for _, change := range []string{
			"DELETE FROM webhook_orders WHERE id = 1",
			"UPDATE webhook_orders SET customer = 'Bob' WHERE id = 2",
			`UPDATE webhook_orders SET ? = '[{"id":3,"order_id":3,"sku":"book","quantity":1,"price":6}]' WHERE id = 3`,
			"UPDATE webhook_orders SET id = 10000 WHERE id = 501",
			"UPDATE stats_orders SET created_at = '2020-01-01 00:00:00' WHERE id = 1",
			"DELETE FROM stats_orders WHERE id = 501",
			"UPDATE stats_orders SET id = 0 WHERE id = 2",
		} {
			_, err := db.ExecContext(t.Context(), change, bun.Ident("lines")) // a reserved word of MariaDB
			require.NoError(t, err, change)
		}
		different, err := d.Compare(t.Context(), 100)
		require.NoError(t, err)
		for i, want := range []string{
			"webhooks: order 1 is missing", "webhooks: order 2 is\n", "webhooks: order 3 is\n",
			"webhooks: order 501 is missing", "webhooks: order 10000 is not in orders",
			"stats: order 0 is not in orders", "stats: order 1 is\n", "stats: order 2 is missing",
			"stats: order 501 is missing",
		} {
			require.Contains(t, different.Differences[i], want)
		}
		require.Len(t, different.Differences, 9)
		few, err := d.Compare(t.Context(), 2)
		require.NoError(t, err)
		require.Len(t, few.Differences, 2)
	})
}

// copyAll is what replication should come to.
func copyAll(t *testing.T, d Databases) {
	_, err := d.Stats.ExecContext(t.Context(), "INSERT INTO stats_orders SELECT id, status, total, created_at FROM orders")
	require.NoError(t, err)
	page, err := orders.Page(t.Context(), d.Orders, 0, 1000)
	require.NoError(t, err)
	var copies []webhooks.Order
	for _, o := range page {
		line := o.Lines[0]
		copies = append(copies, webhooks.Order{
			ID: o.ID, Customer: o.Customer, Status: o.Status, Total: o.Total, CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
			Lines: []webhooks.Line{{ID: line.ID, OrderID: o.ID, SKU: line.SKU, Quantity: line.Quantity, Price: line.Price}},
		})
	}
	_, err = d.Webhooks.NewInsert().Model(&copies).Exec(t.Context())
	require.NoError(t, err)
}

func TestARelayProcessThatEndsByItselfIsAnError(t *testing.T) {
	t.Parallel()
	relay := NewRelayProcess(func() *exec.Cmd { return exec.Command("false") })
	require.ErrorContains(t, relay.Run(t.Context()), "the relay process ended by itself (exit status 1)")
	relay = NewRelayProcess(func() *exec.Cmd { return exec.Command("./no-such-program") })
	require.ErrorContains(t, relay.Run(t.Context()), "start relay process")
}

func TestAKilledRelayProcessIsStartedAgain(t *testing.T) {
	t.Parallel()
	started := make(chan struct{}, 10)
	relay := NewRelayProcess(func() *exec.Cmd {
		started <- struct{}{}
		return exec.Command("sh", "-c", "echo publishing; exec cat") // ends with its input
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- relay.Run(ctx) }()
	for range 3 {
		<-started
		require.NoError(t, relay.Kill(ctx))
	}
	<-started
	stop()
	require.NoError(t, <-ended)
	require.ErrorIs(t, relay.Kill(ctx), context.Canceled)
}
