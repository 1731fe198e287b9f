package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// tables makes a database of either side with a table of three orders, and returns the flags that
// name it.
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
	r := invoke(t.Context(), on(master, "dump", "--model", "order", "--end-mark", "--resume", file)...)
	require.Zero(t, r.code, r.stderr)
	require.Equal(t, 2, strings.Count(r.stdout, "\n{\""), "without the first line and without order 1: %q", r.stdout)
	require.True(t, strings.HasSuffix(r.stdout, "\n{}\n"), "with the mark that both together are whole: %q", r.stdout)
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
	r = invoke(t.Context(), on(replica, "load", "-i", dump, "--quiet", "--progress", "--clear", "--max-deletes", "3")...)
	require.Equal(t, result{}, r)

	listed, differing := filepath.Join(t.TempDir(), "listed"), filepath.Join(t.TempDir(), "differing")
	require.Zero(t, invoke(t.Context(), on(master, "diff-master", "--model", "order", "--filter", "{}", "-o", listed)...).code)
	require.Zero(t, invoke(t.Context(), on(replica, "diff-replica", "-i", listed, "-o", differing)...).code, "equal")
	_, err := dbtest.Open(t, replica[1]).DB.ExecContext(t.Context(), "DELETE FROM orders WHERE id = 2")
	require.NoError(t, err)
	require.Equal(t, 1, invoke(t.Context(), on(replica, "diff-replica", "-i", listed, "-o", differing, "--grace", "0s")...).code)
	r = invoke(t.Context(), on(master, "diff-sync", "-i", differing)...)
	require.Equal(t, result{code: 1, stderr: "diff-sync: 1 instances are in the outbox\n"}, r)

	const failed, usage = exit.Failed, exit.Usage
	for line, want := range map[string]struct {
		code int
		says string
	}{
		"diff-master --model order":                        {usage, "filter"},
		"diff-master --model order --filter [":             {usage, "want a JSON object"},
		"diff-master --model nope --filter {}":             {failed, `"nope" is not registered`},
		"diff-master --model order --filter {} --batch -1": {usage, "--batch: -1"},
		"diff-master --model order --filter {} extra":      {usage, "unexpected argument"},
		"diff-master --model order --filter {":             {usage, "--filter: not JSON: it ends too early"},
		"dump --model nope":                                {failed, "want one of order"},
		"dump --model order -o /nonexistent/file":          {failed, "--output: open /nonexistent/file"},
		"sync --model order --filter {} --queue x":         {usage, "sync: these settings cannot be meant so:\n  --broker (or CQRSYNC_BROKER): not set"},
		"diff-sync -i /nonexistent/file":                   {failed, "--input: open /nonexistent/file: no such file"},
		"diff-sync -i " + dump:                             {failed, "line 1: the first line is not MODEL,TIME"},
		"dump --model order --config /nonexistent/file":    {usage, "no such file"},
		"deleted-diff-master --nonsense":                   {usage, "not defined"},
		"sync --model order --filter {\"id\":1} --rate -5": {usage, "--rate: -5"},
		"diff-replica -i " + listed + " --grace -1s":       {usage, "--grace: -1s"},
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
		require.Equal(t, want.code, r.code, "%s: %s", line, r.stderr)
		require.Contains(t, r.stderr, want.says, line)
	}
}

func TestAnInterruptedDiffGoesOnAfterTheLinesItDealtWith(t *testing.T) {
	master := tables(t, "outbox")
	dir := t.TempDir()
	differing, file := filepath.Join(dir, "differing"), filepath.Join(dir, "position")
	require.NoError(t, os.WriteFile(differing, []byte("order,2026-11-24 12:00:00.000000+00:00,webhooks\n[1]\n[2]\n[3]\n"), 0o600))
	line := on(master, "diff-sync", "-i", differing, "--resume", file)

	r := interrupted(t, line, file)
	require.Equal(t, 2, r.code, r.stderr)
	require.Contains(t, r.stderr, "the same command with --resume "+file+" goes on")

	r = invoke(t.Context(), line...)
	require.Equal(t, 1, r.code, r.stderr)
	require.NoFileExists(t, file)
	var keys []string
	require.NoError(t, dbtest.Open(t, master[1]).NewSelect().Table("outbox_messages").Column("key").Order("key").Scan(t.Context(), &keys))
	require.Equal(t, []string{"1", "2", "3"}, keys, "each once")
}

// interrupted gives a slow command and ends it when it has noted a position.
func interrupted(t *testing.T, line []string, file string) result {
	t.Helper()
	ctx, interrupt := context.WithCancel(t.Context())
	done := make(chan result, 1)
	go func() { done <- invoke(ctx, append(line, "--rate", "1")...) }()
	require.Eventually(t, func() bool { _, err := os.Stat(file); return err == nil }, time.Minute, time.Millisecond)
	interrupt()
	return <-done
}

func TestALoadWithBadLinesSaysSoToTheEndAndStartsOverAfterwards(t *testing.T) {
	replica := tables(t, "replica")
	dir := t.TempDir()
	dump, file := filepath.Join(dir, "dump"), filepath.Join(dir, "position")
	lines := func(first string) string {
		const revision = `,"cqrs_revision":1,"cqrs_updated":"2026-11-24 12:00:00+00:00"}`
		return "order\n" + first + revision + "\n" + `{"id":5,"status":"new"` + revision + "\n" + `{"id":6,"status":"new"` + revision
	}
	require.NoError(t, os.WriteFile(dump, []byte(lines(`{"status":"without a key"`)), 0o600))
	line := on(replica, "load", "-i", dump, "--batch", "1", "--resume", file)

	r := interrupted(t, line, file)
	require.Equal(t, 2, r.code, r.stderr)
	require.Contains(t, r.stderr, "load: line 2: ")
	require.Contains(t, r.stderr, "goes on")

	r = invoke(t.Context(), line...)
	require.Equal(t, 2, r.code, "the bad line was passed over, but is not forgotten")
	require.NotContains(t, r.stderr, "load: line 2: ")
	require.Contains(t, r.stderr, "1 lines could not be loaded, the others were; when the cause is gone, run the same command again")
	require.NoFileExists(t, file, "or the same command would pass it over again")

	require.NoError(t, os.WriteFile(dump, []byte(lines(`{"id":4,"status":"new"`)), 0o600))
	r = invoke(t.Context(), line...)
	require.Zero(t, r.code, r.stderr)
	var ids []int64
	require.NoError(t, dbtest.Open(t, replica[1]).NewSelect().Table("orders").Column("id").
		Where("status = 'new'").Order("id").Scan(t.Context(), &ids))
	require.Equal(t, []int64{4, 5, 6}, ids)
}
