package main

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/examples/orders/demo"
	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// An existing master and two empty replicas start in any order, with an empty broker. Nobody does
// anything, and they are equal.
func TestEmptyReplicasFillThemselves(t *testing.T) {
	t.Parallel()
	for _, order := range [][]string{{"orders", "stats", "webhooks"}, {"webhooks", "stats", "orders"}} {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			t.Parallel()
			fillsItself(t, 500, order)
		})
	}
}

// existingOrders are there before cqrsync comes.
var existingOrders = 100_000

func TestAHundredThousandOrdersFillAReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	t.Parallel()
	fillsItself(t, existingOrders, []string{"stats", "orders", "webhooks"})
}

func fillsItself(t *testing.T, n int, order []string) {
	dir := t.TempDir()
	master := dbtest.Open(t, "sqlite://"+filepath.Join(dir, "orders.db"))
	service, err := orders.New(t.Context(), master, orders.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, service.Box().Close()) })
	// They are from before cqrsync came: nothing captures them.
	_, err = master.DB.ExecContext(t.Context(), `
		WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?)
		INSERT INTO orders (id, customer, status, total, created_at, updated_at)
		SELECT n, 'customer ' || n, 'new', n, '2026-11-01 00:00:00+00:00', '2026-11-01 00:00:00+00:00' FROM numbers`, n)
	require.NoError(t, err)
	for _, name := range order {
		start(t, "--dir", dir, name)
	}
	startRelay(t, []string{"--dir", dir})
	all := demo.Databases{
		Orders:   master,
		Webhooks: dbtest.Open(t, "sqlite://"+filepath.Join(dir, "webhooks.db")),
		Stats:    dbtest.Open(t, "sqlite://"+filepath.Join(dir, "stats.db")),
	}
	count := func(db *bun.DB) int {
		var done int
		err := db.NewRaw("SELECT count(*) FROM replica_backfills WHERE done_at IS NOT NULL").Scan(t.Context(), &done)
		if err != nil {
			return 0 // it is about to make its tables
		}
		return done
	}
	require.Eventually(t, func() bool {
		return count(all.Webhooks) == 1 && count(all.Stats) == 1
	}, 8*time.Minute, 200*time.Millisecond, "all of it has come")
	result, err := all.Compare(context.WithoutCancel(t.Context()), 10)
	require.NoError(t, err)
	require.Empty(t, result.Differences)
	require.Equal(t, []int{n, n, n}, []int{result.Orders, result.Webhooks, result.Stats})
}
