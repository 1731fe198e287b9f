package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport/open"
)

// sides are a master and a replica, each with a description of its own: the replica's table has
// another name.
func sides(t *testing.T, models ...string) (flags []string, masterURL, replicaURL string) {
	t.Helper()
	masterURL, replicaURL = dbtest.SQLiteURL(t), dbtest.SQLiteURL(t)
	folder := t.TempDir()
	for url, side := range map[string]string{masterURL: "outbox", replicaURL: "replica"} {
		table := map[string]string{"outbox": "%ss", "replica": "%s_copies"}[side]
		text := "queue: webhooks\nmodels:\n"
		for _, model := range models {
			name := fmt.Sprintf(table, model)
			text += fmt.Sprintf("  %s: {table: %s}\n", model, name)
			_, err := dbtest.Open(t, url).DB.ExecContext(t.Context(), "CREATE TABLE "+name+" (id integer PRIMARY KEY, status text);"+
				"INSERT INTO "+name+" VALUES (1, 'open'), (2, 'open'), (3, 'open')")
			require.NoError(t, err)
		}
		require.NoError(t, os.WriteFile(filepath.Join(folder, side+".yaml"), []byte(text), 0o600))
		require.Zero(t, invoke(t.Context(), "migrate", "--side", side, "--db", url).code)
	}
	return []string{
		"--master-db", masterURL, "--replica-db", replicaURL,
		"--master-config", filepath.Join(folder, "outbox.yaml"), "--replica-config", filepath.Join(folder, "replica.yaml"),
		"--filter", "{}", "--grace", "0s",
	}, masterURL, replicaURL
}

func TestDiffOfAllModelsGoesOnBehindOneThatIsNotAsItShouldBe(t *testing.T) {
	flags, masterURL, replicaURL := sides(t, "apple", "bread", "cheese", "dough")
	master, copies := dbtest.Open(t, masterURL), dbtest.Open(t, replicaURL)
	r := invoke(t.Context(), on(flags, "diff", "--all", "--content")...)
	require.Equal(t, 1, r.code, "rows that no message told of: %s", r.stderr)
	for _, statement := range []string{"DROP TABLE breads", "DELETE FROM dough_copies WHERE id = 3"} {
		db := master
		if strings.Contains(statement, "copies") {
			db = copies
		}
		_, err := db.DB.ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	r = invoke(t.Context(), on(flags, "diff", "--all", "--check")...)
	require.Equal(t, 2, r.code)
	for _, part := range []string{
		"apple: 3 of 3 instances differ", "cheese: 3 of 3", "dough: 3 of 3", "1 of 4 models", "bread: ", "table breads does not exist",
	} {
		require.Contains(t, r.stderr, part)
	}
	require.Equal(t, 3, strings.Count(r.stdout, ",webhooks\n"), r.stdout)

	r = invoke(t.Context(), on(flags, "diff", "--model", "apple", "--check")...)
	require.Equal(t, 1, r.code, "another model does not matter: %s", r.stderr)
	for line, want := range map[string]string{
		"diff":                          "--model: not set, want the CQRS id of a model, or --all",
		"diff --all --model apple":      "--all, --model: give one of them",
		"diff --all --digest --content": "--digest, --content: digests are of revisions, give one of them",
		"diff --model water":            `models: no "water", want one of apple, bread, cheese, dough`,
	} {
		r := invoke(t.Context(), on(flags, strings.Fields(line)...)...)
		require.Equal(t, exit.Usage, r.code)
		require.Contains(t, r.stderr, want)
		require.NotContains(t, r.stderr, "cheese: ")
	}
	r = invoke(t.Context(), append(on(flags, "diff", "--all"), "--replica-config", "/nonexistent/file")...)
	require.Equal(t, exit.Usage, r.code, r.stderr)
}

func TestDiffOfAllModelsIsOneCommandForACronJob(t *testing.T) {
	flags, masterURL, replicaURL := sides(t, "apple", "bread")
	for _, model := range []string{"apple", "bread"} {
		dump := filepath.Join(t.TempDir(), model)
		r := invoke(t.Context(), "dump", "--db", masterURL, "--config", flags[5], "--model", model, "-o", dump)
		require.Zero(t, r.code, r.stderr)
		r = invoke(t.Context(), "load", "--db", replicaURL, "--config", flags[7], "-i", dump)
		require.Zero(t, r.code, r.stderr)
	}
	r := invoke(t.Context(), on(flags, "diff", "--all", "--content")...)
	require.Zero(t, r.code, r.stderr)
	_, err := dbtest.Open(t, masterURL).DB.ExecContext(t.Context(), "DELETE FROM breads")
	require.NoError(t, err)
	r = invoke(t.Context(), on(flags, "diff", "--all")...)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "bread: would delete 3 rows of bread, of which the master has none: nothing was deleted")
	require.Contains(t, r.stderr, "--max-deletes 3")
	require.Contains(t, r.stderr, "apple: 0 of 3 instances differ, 0 are on the replica only")
	r = invoke(t.Context(), on(flags, "diff", "--all", "--max-deletes", "3")...)
	require.Equal(t, 1, r.code, r.stderr)
	require.Contains(t, r.stderr, "bread: 0 are in the outbox, 3 were deleted")
	require.Zero(t, invoke(t.Context(), on(flags, "diff", "--all")...).code)
}

func TestAFlagThatIsGivenAndEmptyIsRefused(t *testing.T) {
	flags, masterURL, replicaURL := sides(t, "apple")
	master := []string{"--db", masterURL, "--config", flags[5]}
	for want, args := range map[string][]string{
		"--filter: it is empty, want '{}' for all":        on(master, "sync", "--model", "apple", "--filter", ""),
		"--filter: it is empty, want '{}' for all i":      on(master, "dump", "--model", "apple", "--filter="),
		"--filter: it is empty, want '{}' for all in":     on(master, "diff-master", "--model", "apple", "-f", ""),
		"--queue: it is empty":                            on(master, "sync", "--model", "apple", "--filter", "{}", "--queue", ""),
		"--model: it is empty":                            on(master, "dump", "--model", ""),
		"--output: it is empty":                           on(master, "dump", "--model", "apple", "--output", ""),
		"--resume: it is empty":                           on(master, "dump", "--model", "apple", "--resume", ""),
		"--input: it is empty":                            {"load", "--db", replicaURL, "--config", flags[7], "--input", ""},
		"--filter: it is empty, want '{}' for all inst":   {"deleted-diff-replica", "--db", replicaURL, "--config", flags[7], "--model", "apple", "--filter", ""},
		"--max-deletes: -1, want how many rows may be de": {"load", "--db", replicaURL, "--config", flags[7], "--max-deletes", "-1"},
	} {
		r := invoke(t.Context(), args...)
		require.Equal(t, exit.Usage, r.code, "%q", args)
		require.Contains(t, r.stderr, want, "%q", args)
	}
	require.Contains(t, invoke(t.Context(), "status", "--db", masterURL).stdout, "unsent messages     0\n")
}

func TestSyncToAQueueThatIsNotThereIsAnError(t *testing.T) {
	flags, masterURL, _ := sides(t, "apple")
	broker := "sqlite://" + filepath.Join(t.TempDir(), "broker.db")
	subscriber, err := open.Subscriber(broker, "webhooks", open.Options{})
	require.NoError(t, err)
	require.NoError(t, subscriber.(message.SubscribeInitializer).SubscribeInitialize("apple"))
	require.NoError(t, subscriber.Close())
	sync := func(more ...string) result {
		return invoke(t.Context(), append([]string{
			"sync", "--db", masterURL, "--config", flags[5], "--model", "apple", "--filter", "{}",
		}, more...)...)
	}
	r := sync("--queue", "nosuch", "--broker", broker)
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, `--queue "nosuch": the broker has no such queue`)
	r = sync("--queue", "webhooks")
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, "--broker (or CQRSYNC_BROKER): not set")
	require.Contains(t, r.stderr, "--unchecked-queue")
	require.Contains(t, invoke(t.Context(), "status", "--db", masterURL).stdout, "unsent messages     0\n")
	require.Zero(t, sync("--queue", "webhooks", "--broker", broker).code)
	require.Zero(t, sync("--queue", "elsewhere", "--unchecked-queue").code)
	require.Zero(t, sync().code, "to all")
}

func TestACommandThatLeavesRowsOutSaysSoAndNamesThem(t *testing.T) {
	url := dbtest.SQLiteURL(t)
	_, err := dbtest.Open(t, url).DB.ExecContext(t.Context(),
		"CREATE TABLE apples (id text PRIMARY KEY, status text); INSERT INTO apples VALUES ('', 'x'), ('a', 'y')")
	require.NoError(t, err)
	config := filepath.Join(t.TempDir(), "cqrsync.yaml")
	require.NoError(t, os.WriteFile(config, []byte("models: {apple: {table: apples}}"), 0o600))
	require.Zero(t, invoke(t.Context(), "migrate", "--db", url).code)
	for _, line := range []string{"dump", "sync --filter {}", "diff-master --filter {}"} {
		r := invoke(t.Context(), append(strings.Fields(line), "--model", "apple", "--db", url, "--config", config)...)
		require.Equal(t, 2, r.code, line)
		require.Contains(t, r.stderr, `key "": `)
		require.Contains(t, r.stderr, "1 rows cannot be sent, the others were", line)
		require.Contains(t, r.stderr, "1 instances of apple")
	}
}

func TestDiffByDigestsHasTheExitCodesOfDiff(t *testing.T) {
	flags, masterURL, replicaURL := sides(t, "apple", "bread")
	digest := func(more ...string) result {
		return invoke(t.Context(), append(on(flags, "diff", "--digest"), more...)...)
	}
	r := digest("--all", "--check")
	require.Equal(t, 1, r.code, r.stderr)
	require.Contains(t, r.stderr, "apple: 3 of 3 instances differ, 0 are on the replica only; not compared: columns")
	for _, model := range []string{"apple", "bread"} {
		dump := filepath.Join(t.TempDir(), model)
		require.Zero(t, invoke(t.Context(), "dump", "--db", masterURL, "--config", flags[5], "--model", model, "-o", dump).code)
		require.Zero(t, invoke(t.Context(), "load", "--db", replicaURL, "--config", flags[7], "-i", dump).code)
	}
	require.Zero(t, digest("--all").code)
	_, err := dbtest.Open(t, masterURL).DB.ExecContext(t.Context(), "DELETE FROM breads")
	require.NoError(t, err)
	r = digest("--all")
	require.Equal(t, 2, r.code)
	require.Contains(t, r.stderr, "bread: would delete 3 rows of bread, of which the master has none: nothing was deleted")
	r = digest("--all", "--max-deletes", "3")
	require.Equal(t, 1, r.code, r.stderr)
	require.Contains(t, r.stderr, "bread: 0 are in the outbox, 3 were deleted")
	require.Zero(t, digest("--all").code)
	r = invoke(t.Context(), "diff", "--digest", "--model", "apple", "--filter", `{"id": 1}`)
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, "--digest, --filter: digests are of all keys of a model, want --filter '{}' with it")
}
