package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// tables makes a database of either side with a table of three orders, and returns the flags that name it.
func tables(t *testing.T, side string) []string {
	url := dbtest.SQLiteURL(t)
	db := dbtest.Open(t, url)
	_, err := db.DB.ExecContext(t.Context(), "CREATE TABLE orders (id integer PRIMARY KEY, status text);"+
		"INSERT INTO orders VALUES (1, 'open'), (2, 'open'), (3, 'open')")
	require.NoError(t, err)
	config := filepath.Join(t.TempDir(), "cqrsync.yaml")
	require.NoError(t, os.WriteFile(config, []byte("{queue: webhooks, models: {order: {table: orders}}}"), 0o600))
	require.Zero(t, invoke(t.Context(), "migrate", "--side", side, "--db", url).code)
	return []string{"--db", url, "--config", config}
}

func on(flags []string, args ...string) []string { return append(args, flags...) }

func TestAnInterruptedDumpGoesOnWhereItsFileSays(t *testing.T) {
	master := tables(t, "outbox")
	file := filepath.Join(t.TempDir(), "position")
	require.NoError(t, os.WriteFile(file, []byte(`{"command":"dump","model":"order","filter":"{}","after":1}`), 0o600))
	r := invoke(t.Context(), on(master, "dump", "--model", "order", "--resume", file)...)
	require.Zero(t, r.code, r.stderr)
	require.Equal(t, 2, strings.Count(r.stdout, "\n{"), "without the first line and without order 1: %q", r.stdout)
	require.NotContains(t, r.stdout, `"id":1,`)
	require.NoFileExists(t, file, "it came to the end")

	require.NoError(t, os.WriteFile(file, []byte(`{"command":"sync","model":"order","filter":"{}","after":1}`), 0o600))
	r = invoke(t.Context(), on(master, "dump", "--model", "order", "--resume", file)...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "give the same flags, or remove it")
}

func TestExitCodesAndWhatIsPrintedWhere(t *testing.T) {
	master, replica := tables(t, "outbox"), tables(t, "replica")
	dump := filepath.Join(t.TempDir(), "dump")
	r := invoke(t.Context(), on(master, "dump", "--model", "order", "-o", dump, "--progress")...)
	require.Zero(t, r.code, r.stderr)
	require.Empty(t, r.stdout)
	require.Contains(t, r.stderr, `{"command":"dump","model":"order","done":3,`)
	require.Contains(t, r.stderr, `"finished":true}`)
	r = invoke(t.Context(), on(replica, "load", "-i", dump, "--quiet", "--progress", "--clear", "--yes")...)
	require.Equal(t, result{}, r)

	listed, differing := filepath.Join(t.TempDir(), "listed"), filepath.Join(t.TempDir(), "differing")
	require.Zero(t, invoke(t.Context(), on(master, "diff-master", "--model", "order", "--filter", "{}", "-o", listed)...).code)
	require.Zero(t, invoke(t.Context(), on(replica, "diff-replica", "-i", listed, "-o", differing)...).code, "equal")
	_, err := dbtest.Open(t, replica[1]).DB.ExecContext(t.Context(), "DELETE FROM orders WHERE id = 2")
	require.NoError(t, err)
	require.Equal(t, 1, invoke(t.Context(), on(replica, "diff-replica", "-i", listed, "-o", differing, "--grace", "0s")...).code)
	r = invoke(t.Context(), on(master, "diff-sync", "-i", differing)...)
	require.Equal(t, result{code: 1, stderr: "diff-sync: 1 instances are in the outbox\n"}, r)

	for line, want := range map[string]string{
		"diff-master --model order":                        "filter",
		"diff-master --model order --filter [":             "want a JSON object",
		"diff-master --model nope --filter {}":             `"nope" is not registered`,
		"diff-master --model order --filter {} --batch -1": "--batch: -1",
		"diff-master --model order --filter {} extra":      "unexpected argument",
		"diff-sync -i /nonexistent/file":                   "no such file",
		"diff-sync -i " + dump:                             "line 1: the first line is not MODEL,TIME",
		"dump --model order --config /nonexistent/file":    "no such file",
		"deleted-diff-master --nonsense":                   "not defined",
		"sync --model order --filter {\"id\":1} --rate -5": "--rate: -5",
		"diff-replica -i " + listed + " --grace -1s":       "--grace: -1s",
	} {
		args := strings.Fields(line)
		flags := master
		if strings.HasPrefix(line, "diff-replica") {
			flags = replica
		}
		if strings.Contains(line, "--config") {
			flags = flags[:2]
		}
		r := invoke(t.Context(), on(flags, args...)...)
		require.Equal(t, 2, r.code, "%s: %s", line, r.stderr)
		require.Contains(t, r.stderr, want, line)
	}
}
