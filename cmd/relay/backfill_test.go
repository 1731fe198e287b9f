package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// filled is a master with rows and an empty replica, of the stock binary.
type filled struct {
	*testing.T
	master, copies, broker, config string
}

func newFilled(t *testing.T) *filled {
	folder := t.TempDir()
	f := &filled{
		T: t, master: dbtest.SQLiteURL(t), copies: dbtest.SQLiteURL(t),
		broker: "sqlite://" + filepath.Join(folder, "broker.db"), config: filepath.Join(folder, "cqrsync.yaml"),
	}
	f.describe("queue: stats\nbackfill: if_empty\nmodels: {order: {table: orders}}\n")
	for _, url := range []string{f.master, f.copies} {
		_, err := dbtest.Open(t, url).ExecContext(t.Context(),
			"CREATE TABLE orders (id integer NOT NULL PRIMARY KEY, status text NOT NULL)")
		require.NoError(t, err)
	}
	_, err := dbtest.Open(t, f.master).ExecContext(t.Context(), `INSERT INTO orders
		WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300)
		SELECT n, 'old' FROM numbers`)
	require.NoError(t, err)
	f.do(exit.Done, "migrate", "--db", f.master)
	return f
}

func (f *filled) describe(text string) {
	require.NoError(f, os.WriteFile(f.config, []byte(text), 0o600))
}

func (f *filled) do(want int, args ...string) result {
	f.Helper()
	r := invoke(f.Context(), args...)
	require.Equal(f, want, r.code, r.stderr)
	return r
}

func (f *filled) backfill(want int, args ...string) result {
	f.Helper()
	return f.do(want, append([]string{
		"backfill", "--db", f.master, "--broker", f.broker, "--config", f.config,
		"--queue", "stats", "--model", "order",
	}, args...)...)
}

func (f *filled) has(n int) {
	f.Helper()
	db := dbtest.Open(f.T, f.copies)
	require.Eventually(f, func() bool {
		var have int
		err := db.NewRaw("SELECT count(*) FROM orders").Scan(f.Context(), &have)
		return err == nil && have == n
	}, time.Minute, 50*time.Millisecond)
}

func TestAReplicaOfTheStockBinaryFillsItself(t *testing.T) {
	f := newFilled(t)
	running(t, "replicate", "--migrate", "--db", f.copies, "--broker", f.broker, "--config", f.config)
	running(t, "answer", "--db", f.master, "--broker", f.broker, "--config", f.config)
	f.has(300)
	require.Eventually(t, func() bool {
		return f.do(exit.Done, "replicas", "list", "--db", f.master).stdout != ""
	}, time.Minute, 50*time.Millisecond)
	require.Contains(t, f.do(exit.Done, "replicas", "list", "--db", f.master, "--json").stdout, `"state":"done"`)

	set := func(columns string) string {
		_, err := dbtest.Open(t, f.master).ExecContext(t.Context(), "UPDATE outbox_backfills SET "+columns)
		require.NoError(t, err)
		return f.do(exit.Done, "replicas", "list", "--db", f.master).stdout
	}
	// One that nobody takes, because it is another's for ever.
	later := "finished_at = NULL, owner = 'x', expires_at = 9999999999999999, "
	require.Contains(t, set(later+"sent = 430000, total = 1000000"), "backfill 43 % (430,000 of ~1,000,000)\n")
	require.Contains(t, set("total = NULL"), "backfill of 430,000 so far\n")
	require.Contains(t, set("bad = 2, error = 'key 7: no'"), "2 rows cannot be sent: key 7: no\n")
	require.Contains(t, set("bad = 0, error = 'away'"), "so far: away\n")
	require.Contains(t, f.backfill(exit.Done, "--cancel").stderr, "not sent to stats any more")
	require.Contains(t, f.backfill(exit.Usage, "--cancel").stderr, "no backfill of order for stats is under way")
}

func TestABackfillByCommand(t *testing.T) {
	f := newFilled(t)
	require.Contains(t, f.backfill(exit.Failed).stderr, "no queue of that name")
	running(t, "replicate", "--migrate", "--db", f.copies, "--broker", f.broker, "--config", f.config,
		"--backfill", "none")
	require.Eventually(t, func() bool {
		return invoke(t.Context(), "queues", "list", "--broker", f.broker).stdout != "" &&
			invoke(t.Context(), "backfill", "--db", f.master, "--broker", f.broker, "--config", f.config,
				"--queue", "stats", "--model", "order", "--filter", `{"id__gt": 290}`).code == exit.Done
	}, time.Minute, 100*time.Millisecond)
	f.has(10)
	require.Contains(t, f.backfill(exit.Done, "--detach").stderr, "by whoever answers replicas")
	require.Contains(t, f.backfill(exit.Failed, "--filter", `{"id": 1}`).stderr, "is under way with the filter {}")
	require.Contains(t, f.backfill(exit.Done).stderr, "300 rows of order are in the queue of stats")
	f.has(300)
	f.backfill(exit.Usage, "--detach", "--cancel")
	f.backfill(exit.Usage, "--rate", "-1")
	f.backfill(exit.Usage, "--filter", "[]")
	require.Contains(t, f.do(exit.Usage, "backfill", "--db", f.master, "--config", f.config, "--queue", "stats",
		"--model", "order").stderr, "--broker")
}

func TestWhatAReplicaAsksForIsChecked(t *testing.T) {
	f := newFilled(t)
	replicate := func(args ...string) string {
		t.Helper()
		return f.do(exit.Usage, append([]string{
			"replicate", "--db", f.copies, "--broker", f.broker, "--config", f.config,
		}, args...)...).stderr
	}
	require.Contains(t, replicate("--backfill", "always"), `"always", want if-empty or none`)
	require.Contains(t, replicate("--silent"), "--silent does not")
	f.describe("queue: stats\nbackfill: always\nmodels: {order: {table: orders}}\n")
	require.Contains(t, replicate(), `backfill: "always", want if_empty or none`)
}
