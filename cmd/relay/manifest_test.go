package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// What the file says of rows and of what is nested holds in every command.
func TestCommandsKnowFilterAndRelations(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			masterURL, replicaURL, folder := newURL(t), newURL(t), t.TempDir()
			write := func(name, text string) string {
				path := filepath.Join(folder, name)
				require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
				return path
			}
			const filter = "filter: \"status <> 'draft'\""
			masterYAML := write("master.yaml", "models: {order: {table: orders, "+filter+
				", relations: {rows: {table: order_rows, key: order_id, columns: sku, many: true}}}}")
			replicaYAML := write("replica.yaml", "queue: q\nmodels: {order: {table: copies}}")
			master, copies := dbtest.Open(t, masterURL), dbtest.Open(t, replicaURL)
			for _, statement := range []string{
				"CREATE TABLE orders (id bigint PRIMARY KEY, status varchar(20))",
				"CREATE TABLE order_rows (id bigint PRIMARY KEY, order_id bigint, sku varchar(20))",
				"INSERT INTO orders VALUES (1, 'open'), (2, 'draft'), (3, NULL), (4, 'paid')",
				"INSERT INTO order_rows VALUES (2, 1, 'b'), (1, 1, 'a')",
			} {
				_, err := master.DB.ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
			_, err := copies.DB.ExecContext(t.Context(), "CREATE TABLE copies (id bigint PRIMARY KEY, status varchar(20), "+
				quotedRows(name)+" json)")
			require.NoError(t, err)
			require.Zero(t, invoke(t.Context(), "migrate", "--side", "outbox", "--db", masterURL).code)
			require.Zero(t, invoke(t.Context(), "migrate", "--side", "replica", "--db", replicaURL).code)

			dump := filepath.Join(folder, "dump")
			r := invoke(t.Context(), "dump", "--db", masterURL, "--config", masterYAML, "--model", "order", "-o", dump)
			require.Zero(t, r.code, r.stderr)
			text, err := os.ReadFile(dump)
			require.NoError(t, err)
			require.Equal(t, 2, strings.Count(string(text), `"status"`), string(text))
			require.Contains(t, string(text), `"rows":[{"sku":"a"},{"sku":"b"}]`)
			r = invoke(t.Context(), "load", "--db", replicaURL, "--config", replicaYAML, "-i", dump)
			require.Zero(t, r.code, r.stderr)

			diff := []string{
				"diff", "--model", "order", "--content", "--master-db", masterURL, "--replica-db", replicaURL,
				"--master-config", masterYAML, "--replica-config", replicaYAML, "--filter", "{}", "--grace", "0s",
			}
			r = invoke(t.Context(), diff...)
			require.Zero(t, r.code, r.stderr)

			// A copy of a row that is outside of the filter is one too many, one of a nested row's change differs.
			_, err = copies.DB.ExecContext(t.Context(), "INSERT INTO copies (id, status) VALUES (2, 'draft')")
			require.NoError(t, err)
			_, err = master.DB.ExecContext(t.Context(), "UPDATE order_rows SET sku = 'c' WHERE id = 2")
			require.NoError(t, err)
			r = invoke(t.Context(), diff...)
			require.Equal(t, exit.Differ, r.code, r.stderr)
			require.Contains(t, r.stderr, "1 of 2 instances differ, 1 are on the replica only")
			require.Contains(t, r.stderr, "1 are in the outbox, 1 were deleted")
			r = invoke(t.Context(), "sync", "--db", masterURL, "--config", masterYAML, "--model", "order", "--filter", "{}")
			require.Zero(t, r.code, r.stderr)
			require.Contains(t, r.stderr, "2 instances of order")

			for _, line := range []string{"dump --model order", "sync --model order --filter {}", "diff-master --model order --filter {}", "capture install"} {
				wrong := write("wrong.yaml", "models: {order: {table: orders, filter: 'id IN (SELECT 1)'}}")
				r := invoke(t.Context(), append(strings.Fields(line), "--db", masterURL, "--config", wrong)...)
				require.NotZero(t, r.code, line)
				require.Contains(t, r.stderr, "model order: filter: ", line)
			}
			r = invoke(t.Context(), "load", "--db", replicaURL, "--config", masterYAML, "--queue", "q", "-i", dump)
			require.NotZero(t, r.code)
			require.Contains(t, r.stderr, "filter: a replica keeps what its master sends")
		})
	}
}

// A key that a replica may have spelled otherwise is no riddle where the master has the very row,
// and keeps it to itself.
func TestACopyOfARowOutsideTheFilterGoes(t *testing.T) {
	masterURL, replicaURL, folder := dbtest.SQLiteURL(t), dbtest.SQLiteURL(t), t.TempDir()
	for url, yaml := range map[string]string{
		masterURL:  `models: {rate: {table: rates, filter: "status <> 'draft'"}}`,
		replicaURL: "queue: q\nmodels: {rate: {table: rates}}",
	} {
		side := map[string]string{masterURL: "outbox", replicaURL: "replica"}[url]
		require.NoError(t, os.WriteFile(filepath.Join(folder, side), []byte(yaml), 0o600))
		_, err := dbtest.Open(t, url).DB.ExecContext(t.Context(), "CREATE TABLE rates (id text PRIMARY KEY, status text)")
		require.NoError(t, err)
		_, err = dbtest.Open(t, url).DB.ExecContext(t.Context(), "INSERT INTO rates VALUES ('1.50', 'draft')")
		require.NoError(t, err)
		require.Zero(t, invoke(t.Context(), "migrate", "--side", side, "--db", url).code)
	}
	r := invoke(t.Context(), "diff", "--model", "rate", "--master-db", masterURL, "--replica-db", replicaURL, "--grace", "0s",
		"--master-config", filepath.Join(folder, "outbox"), "--replica-config", filepath.Join(folder, "replica"),
		"--filter", "{}", "--max-deletes", "1")
	require.Equal(t, exit.Differ, r.code, r.stderr)
	require.Contains(t, r.stderr, "1 were deleted")
	require.NotContains(t, r.stderr, "spelling")
}

func quotedRows(name string) string {
	if name == "mariadb" {
		return "`rows`"
	}
	return `"rows"`
}

func TestWhatIsVerifiedOfAModelIsCheckedBeforeAnythingRuns(t *testing.T) {
	config := filepath.Join(t.TempDir(), "cqrsync.yaml")
	describe := func(text string) {
		require.NoError(t, os.WriteFile(config, []byte("queue: stats\nmodels:\n"+text), 0o600))
	}
	copies := dbtest.SQLiteURL(t)
	_, err := dbtest.Open(t, copies).ExecContext(t.Context(), "CREATE TABLE orders (id integer NOT NULL PRIMARY KEY)")
	require.NoError(t, err)
	refused := func(more ...string) string {
		r := invoke(t.Context(), append([]string{"replicate", "--db", copies, "--broker", "sqlite://x", "--config", config}, more...)...)
		require.Equal(t, exit.Usage, r.code, r.stderr)
		return r.stderr
	}
	describe("  order: {table: orders, verify: columns}\n")
	require.Contains(t, refused(), `models: order: verify: "columns", want content or revisions`)
	describe("  order: {table: orders, verify: content}\n")
	said := refused("--verify", "sometimes", "--verify-content", "order,water", "--verify-grace", "-1s")
	require.Contains(t, said, `--verify (or CQRSYNC_VERIFY): "sometimes", want repair, report or off`)
	require.Contains(t, said, `--verify-content (or CQRSYNC_VERIFY_CONTENT): "water", want one of order`)
	require.Contains(t, said, `--verify-grace (or CQRSYNC_VERIFY_GRACE): -1s, want a time such as 30s, at most an hour`)
}
