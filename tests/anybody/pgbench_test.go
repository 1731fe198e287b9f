package anybody_test

import (
	"maps"
	"os/exec"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

var tps = regexp.MustCompile(`tps = ([0-9.]+) \(without`)

// The script of TPC-B as pgbench has it, on its own tables: history has no key, and is not captured.
func TestPgbenchIsFollowed(t *testing.T) {
	bench, url := pgbench(t), dbtest.PsqlURL(t)
	run := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), bench, append(args, url)...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		if found := tps.FindSubmatch(out); found != nil {
			return string(found[1])
		}
		return ""
	}
	run("-i", "-s", "1", "-q")
	script := []string{"-c", "4", "-T", "3", "-n"}
	without := run(script...)
	_, err := dbtest.Open(t, url).DB.ExecContext(t.Context(), "UPDATE pgbench_accounts SET abalance = 0 WHERE abalance <> 0")
	require.NoError(t, err)
	w := newWorld(t, url, `models: {account: {table: pgbench_accounts}, branch: {table: pgbench_branches}, teller: {table: pgbench_tellers}}`,
		`CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler text);
		CREATE TABLE pgbench_branches (bid integer PRIMARY KEY, bbalance integer, filler text);
		CREATE TABLE pgbench_tellers (tid integer PRIMARY KEY, bid integer, tbalance integer, filler text)`)
	with := run(script...)
	w.models = []string{"branch", "teller"} // of accounts 100,000 are there: those that changed are compared below
	w.follow()
	run(script...)
	t.Logf("transactions per second: %s without triggers, %s with", without, with)
	w.requireEqual()
	require.Eventually(t, func() bool {
		return maps.Equal(changedAccounts(t, w.master), changedAccounts(t, w.copies))
	}, time.Minute, 100*time.Millisecond, "accounts")
	require.NotEmpty(t, changedAccounts(t, w.copies))
}

// changedAccounts are the balances that are not 0.
func changedAccounts(t *testing.T, db *bun.DB) map[int64]int64 {
	t.Helper()
	var rows []struct{ Aid, Abalance int64 }
	require.NoError(t, db.NewRaw("SELECT aid, abalance FROM pgbench_accounts WHERE abalance <> 0").Scan(t.Context(), &rows))
	all := map[int64]int64{}
	for _, row := range rows {
		all[row.Aid] = row.Abalance
	}
	return all
}
