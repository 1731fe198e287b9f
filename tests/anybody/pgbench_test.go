package anybody_test

import (
	"os/exec"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

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
	w := newWorld(t, url, `models: {account: {table: pgbench_accounts}, branch: {table: pgbench_branches}, teller: {table: pgbench_tellers}}`,
		`CREATE TABLE pgbench_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler text);
		CREATE TABLE pgbench_branches (bid integer PRIMARY KEY, bbalance integer, filler text);
		CREATE TABLE pgbench_tellers (tid integer PRIMARY KEY, bid integer, tbalance integer, filler text)`)
	with := run(script...)
	w.follow()
	run(script...)
	t.Logf("transactions per second: %s without triggers, %s with", without, with)
	w.requireEqual()
}
