package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/operate/exit"
)

// A replica's commands go by the queue of their flag, then by that of CQRSYNC_QUEUE, then by that
// of their file: diff-replica tells it to diff-sync, which sends what differs there.
func TestTheQueueOfAReplicasCommands(t *testing.T) {
	master, replica := tables(t, "outbox"), tables(t, "replica")
	nameless := filepath.Join(t.TempDir(), "cqrsync.yaml")
	require.NoError(t, os.WriteFile(nameless, []byte("{models: {order: {table: orders}}}"), 0o600))
	dir := t.TempDir()
	dump, listed := filepath.Join(dir, "dump"), filepath.Join(dir, "listed")
	require.Zero(t, invoke(t.Context(), on(master, "dump", "--model", "order", "-o", dump)...).code)
	require.Zero(t, invoke(t.Context(), on(master, "diff-master", "--model", "order", "--filter", "{}", "-o", listed)...).code)
	commands := [][]string{
		{"load", "-i", dump},
		{"diff-replica", "-i", listed, "--grace", "0s"},
		{"deleted-diff-replica", "--model", "order"},
		{"diff", "--model", "order", "--filter", "{}", "--check", "--master-db", master[1], "--master-config", master[3]},
	}
	for _, line := range commands {
		line = append(line, "--db", replica[1], "--config", nameless)
		r := invoke(t.Context(), line...)
		require.NotZero(t, r.code, line)
		require.Contains(t, r.stderr, "queue: not set, want the name of the replica service", line)
		require.Contains(t, r.stderr, "--queue", line)
		r = invoke(t.Context(), append(line, "--queue", "webhooks")...)
		require.Zero(t, r.code, "%s: %s", line, r.stderr)
		r = invoke(t.Context(), append(line, "--queue=")...)
		require.Equal(t, exit.Usage, r.code, line)
		require.Contains(t, r.stderr, "--queue", line)
	}

	header := func(flags ...string) string {
		r := invoke(t.Context(), on(replica, append([]string{"diff-replica", "-i", listed, "-q"}, flags...)...)...)
		require.Zero(t, r.code, r.stderr)
		first, _, _ := strings.Cut(r.stdout, "\n")
		return first
	}
	require.True(t, strings.HasSuffix(header(), ",webhooks"))
	t.Setenv("CQRSYNC_QUEUE", "mail")
	require.True(t, strings.HasSuffix(header(), ",mail"))
	require.True(t, strings.HasSuffix(header("--queue", "search"), ",search"))
	r := invoke(t.Context(), on(replica, "load", "-i", dump, "--queue", "search")...)
	require.Zero(t, r.code, r.stderr)
	require.Contains(t, r.stderr, "3 lines of order", "the ledger is the database's, whatever the queue")

	r = invoke(t.Context(), "dead-letters", "retry", "--all", "--side", "replica", "--db", replica[1], "--config", nameless)
	require.Equal(t, result{exit.Differ, "", "no dead letter was found\n"}, r, "there --queue is another thing")

	for _, name := range []string{"load", "diff-replica", "deleted-diff-replica", "deleted-sync-replica", "diff", "replicate"} {
		require.Contains(t, invoke(t.Context(), name, "--help").stdout, "--queue", name)
	}
	for _, name := range []string{"dump", "diff-master", "diff-sync", "deleted-diff-master", "adopt"} {
		require.NotContains(t, invoke(t.Context(), name, "--help").stdout, "--queue", name)
	}
}
