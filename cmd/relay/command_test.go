package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// asRelay makes the test binary the command itself, where a process of its own is needed.
const asRelay = "CQRSYNC_TEST_AS_RELAY"

func TestMain(m *testing.M) {
	if os.Getenv(asRelay) != "" {
		main()
	}
	for _, variable := range os.Environ() { // a developer's own settings must not reach the tests
		name, _, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, "CQRSYNC_") && !strings.HasPrefix(name, "CQRSYNC_TEST_") {
			_ = os.Unsetenv(name) // it was there a moment ago
		}
	}
	goleak.VerifyTestMain(m)
}

type result struct {
	code           int
	stdout, stderr string
}

func invoke(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := execute(ctx, append([]string{"relay"}, args...), &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func TestConfigurationErrorsComeAllAtOnceWithNamesAndFixes(t *testing.T) {
	for line, want := range map[string][]string{
		"":    {"no command"},
		"foo": {"unknown command"},
		"run": {"--db (or CQRSYNC_DB): not set, want", "--broker (or CQRSYNC_BROKER): not set, want"},
		"run --db oracle://h/x --broker memory: --health nowhere --poll -1s --shutdown-timeout -2s --schema a-b --prefix c.d --log-format xml extra": {
			"unexpected argument", `unknown scheme "oracle"`, `--broker (or CQRSYNC_BROKER): "memory:"`,
			`--schema (or CQRSYNC_SCHEMA): schema "a-b"`, `--prefix (or CQRSYNC_TABLE_PREFIX): table prefix "c.d"`,
			`--log-format: "xml", want text or json`, `--health (or CQRSYNC_HEALTH): "nowhere": want HOST:PORT`,
			"--poll (or CQRSYNC_POLL): -1s, want a positive time",
			"--shutdown-timeout (or CQRSYNC_SHUTDOWN_TIMEOUT): -2s, want a positive time",
		},
		"run --db sqlite://x.db --broker pulsar://h":  {"--broker (or CQRSYNC_BROKER): ", "pulsar://h"},
		"migrate --side both --dialect sqlite":        {"--db (or CQRSYNC_DB)", `--side: "both", want`, "only together with --print"},
		"migrate --print --side both --schema a-b":    {`--side: "both"`, `--dialect: ""`, "--schema (or CQRSYNC_SCHEMA)"},
		"migrate --print --dialect sqlite --schema s": {"SQLite has no schemas"},
		"status --db sqlite://x.db --schema s":        {"--schema (or CQRSYNC_SCHEMA): ", "SQLite has no schemas"},
		"status --nonsense":                           {"not defined"},
		"status --db":                                 {"needs an argument"},
		"run --poll x":                                {`--poll: "x", want a time such as 30s, 5m or 72h`},
		"lanes sett 4":                                {"unknown command: want lanes alone, or lanes set"},
		"incarnation neu":                             {"unknown command: want incarnation alone, or incarnation new"},
		"dead-letters show --id x":                    {`--id: "x", want a whole number`},
		"dump":                                        {"--model: not set"},
		"forget-deleted --older-than 5m":              {"--older-than: 5m, want 2160h or more"},
		"diff --model order --filter {}": {
			"these settings cannot be meant so:\n  --config (or CQRSYNC_CONFIG): read the models: open cqrsync.yaml: no such file or directory\n" +
				"  --db (or CQRSYNC_DB): not set, want postgres://USER:PASSWORD@HOST/NAME, mysql://… or sqlite://FILE\n",
		},
	} {
		t.Run(line, func(t *testing.T) {
			t.Chdir(t.TempDir())
			r := invoke(t.Context(), strings.Fields(line)...)
			require.Equal(t, exit.Usage, r.code, r.stderr)
			for _, part := range want {
				require.Contains(t, r.stderr, part)
			}
			require.Empty(t, r.stdout)
		})
	}
}

func TestNoOutputHoldsAPassword(t *testing.T) {
	const password = "s3cr3t"
	for _, url := range []string{
		"postgres://user:" + password + "@127.0.0.1:1/none?sslmode=disable", // nobody there
		"postgres://user:" + password + "@no.such.host.invalid/none",
		"postgres://user:" + password + "@127.0.0.1:port/none",
		"postgres://user@127.0.0.1:1/none?sslmode=disable&password=" + password,
		"postgres://user:" + password + "@127.0.0.1:1/none?sslmode=nonsense",
		"nonsense://user:" + password + "@host/none",
		"user:" + password + "@host/none",
		"://user:" + password + "@host%",
	} {
		for _, args := range [][]string{
			{"run", "--db", url, "--broker", url, "-v"},
			{"run", "--db", url, "--listen-db", url, "--broker", url, "-v"},
			{"run", "--db", url, "--broker", "amqp://user:" + password + "@127.0.0.1:1/", "-v", "--migrate"},
			{"migrate", "--db", url},
			{"status", "--db", url},
			{"status", "--json", "--db", url},
			{"status", url},
			{"status", "--dbb", url},
			{"status", "--dbb=" + url},
			{url},
		} {
			t.Setenv("CQRSYNC_DB", url)
			t.Setenv("CQRSYNC_BROKER", url)
			r := invoke(t.Context(), args...)
			require.NotContains(t, r.stdout+r.stderr, password, "%q", args)
			require.NotEqual(t, exit.Done, r.code, "%q", args)
		}
		for _, args := range [][]string{{"--help"}, {"run", "--help"}, {"migrate", "--print"}} {
			r := invoke(t.Context(), args...)
			require.NotContains(t, r.stdout+r.stderr, password, "%q", args)
		}
	}
}

func TestMigrateStatusAndPrint(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			r := invoke(t.Context(), "status", "--db", url)
			if path, isFile := strings.CutPrefix(url, "sqlite://"); isFile {
				require.Equal(t, exit.Usage, r.code)
				require.Contains(t, r.stderr, path+" does not exist: check the path")
				require.NoFileExists(t, path)
			} else {
				require.Equal(t, exit.Failed, r.code)
				require.Contains(t, r.stderr, "run relay migrate")
			}

			r = invoke(t.Context(), "migrate", "--db", url)
			require.Equal(t, exit.Done, r.code, r.stderr)
			require.Contains(t, r.stdout, "outbox: applied 20261123000001_outbox\n")
			r = invoke(t.Context(), "migrate", "--db", url, "--side", "all")
			require.Equal(t, exit.Done, r.code, r.stderr)
			require.Contains(t, r.stdout, "outbox: up to date\nreplica: applied 20261123000001_replica\n")

			r = invoke(t.Context(), "status", "--db", url)
			require.Equal(t, result{stdout: "No relay runs.\n" +
				"  Do: Start `relay run`. What waits is sent then.\n" +
				"  See docs/operations.md#no-relay\n\n" +
				"unsent messages     0\n" +
				"oldest              0s\n" +
				"keys being retried  0\n" +
				"dead letters        0\n" +
				"live relays         0\n" +
				"lanes owned         0 of 64\n"}, r)
			r = invoke(t.Context(), "status", "--db", url, "--json")
			require.Equal(t, exit.Done, r.code, r.stderr)
			var object map[string]any
			require.NoError(t, json.Unmarshal([]byte(r.stdout), &object))
			require.NotEmpty(t, object["incarnation"])
			delete(object, "incarnation")
			require.Equal(t, "No relay runs.", object["sentence"])
			require.Len(t, object["troubles"], 1)
			delete(object, "sentence")
			delete(object, "troubles")
			require.Equal(t, map[string]any{
				"incarnation_reason": "the tables were made", "unsent": 0.0, "oldest_seconds": 0.0, "retrying_keys": 0.0, "dead_letters": 0.0,
				"relays": 0.0, "lanes": 64.0, "lanes_owned": 0.0, "lanes_ahead": 0.0, "replicas": []any{},
				"stuck": []any{}, "outages": []any{},
			}, object)
		})
	}
}

func TestMigratePrintsSQLThatLeavesNothingToDo(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			dialect := map[string]string{"mariadb": "mysql"}[name]
			r := invoke(t.Context(), "migrate", "--print", "--dialect", cmp.Or(dialect, name), "--side", "all", "--prefix", "x_")
			require.Equal(t, exit.Done, r.code, r.stderr)
			require.Equal(t, r, invoke(t.Context(), "migrate", "--print", "--db", url, "--side", "all", "--prefix", "x_"))
			statements := []string{r.stdout}
			if name == "mariadb" { // whose driver takes one at a time, as database.Open sets it
				statements = strings.SplitAfter(strings.TrimSpace(r.stdout), ";\n")
			}
			db := dbtest.Open(t, url)
			for _, statement := range statements {
				_, err := db.DB.ExecContext(t.Context(), statement)
				require.NoError(t, err, statement)
			}
			r = invoke(t.Context(), "migrate", "--db", url, "--side", "all", "--prefix", "x_")
			require.Equal(t, result{stdout: "outbox: up to date\nreplica: up to date\n"}, r)
		})
	}
}

func TestAnUnreachableDatabaseIsAFailureNotAMistake(t *testing.T) {
	const url = "postgres://user@127.0.0.1:1/none?sslmode=disable"
	for _, args := range [][]string{
		{"run", "--db", url, "--broker", "sqlite://" + t.TempDir() + "/broker.db"}, {"migrate", "--db", url}, {"status", "--db", url},
	} {
		r := invoke(t.Context(), args...)
		require.Equal(t, exit.Failed, r.code)
		require.Contains(t, r.stderr, "error: ")
		require.Contains(t, r.stderr, "127.0.0.1")
	}
}
