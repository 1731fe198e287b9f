// Package anybody_test lets programs write captured tables that know nothing of cqrsync, and asks whether the replicas
// are equal when they end: pgbench with its own script, and what an object-relational mapper of another world sends.
package anybody_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/tests/containers"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func TestMain(m *testing.M) { containers.Main(m) }

// world is a master whose tables have triggers, and a replica on SQLite.
type world struct {
	*testing.T
	master *bun.DB
	copies *bun.DB
	box    *outbox.Box
	rep    *replica.Replica
	models []string
}

// newWorld puts triggers on the tables of text that are there. Both sides have the same file.
func newWorld(t *testing.T, url, text, copies string) *world {
	t.Helper()
	w := &world{T: t, master: dbtest.Open(t, url), copies: dbtest.Open(t, dbtest.SQLiteURL(t))}
	m, err := manifest.Parse([]byte(text))
	require.NoError(t, err)
	for id := range m.Models {
		w.models = append(w.models, id)
	}
	w.box, err = m.Box(t.Context(), w.master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, w.box.Migrate(t.Context()))
	triggers, err := m.Capture(t.Context(), w.master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, triggers.Install(t.Context()))
	_, err = w.copies.DB.ExecContext(t.Context(), copies)
	require.NoError(t, err)
	w.rep, err = m.Replica(t.Context(), w.copies, replica.Config{Queue: "copies"})
	require.NoError(t, err)
	require.NoError(t, w.rep.Migrate(t.Context()))
	return w
}

// follow fills the replica, and runs it and a relay until the test ends.
func (w *world) follow() {
	w.Helper()
	broker := memory.New()
	w.until(func(ctx context.Context) error { return w.rep.Run(ctx, broker.Subscriber("copies")) })
	<-w.rep.Running()
	for _, model := range w.models {
		var dump bytes.Buffer
		_, err := operate.Dump(w.Context(), w.box, model, &dump, operate.DumpOptions{})
		require.NoError(w, err)
		_, err = operate.Load(w.Context(), w.rep, &dump, operate.LoadOptions{})
		require.NoError(w, err)
	}
	rel, err := relay.New(w.master, broker.Publisher(), relay.Config{})
	require.NoError(w, err)
	w.until(rel.Run)
}

func (w *world) until(run func(context.Context) error) {
	w.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	w.Cleanup(func() {
		stop()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			w.Error(err)
		}
	})
}

// requireEqual waits until the replica holds what the master holds, column by column.
func (w *world) requireEqual() {
	w.Helper()
	for _, model := range w.models {
		require.Eventually(w, func() bool {
			result, err := operate.Diff(w.Context(), w.box, w.rep, model, &bytes.Buffer{},
				operate.DiffOptions{Content: true, CheckOnly: true})
			require.NoError(w, err)
			return result.Equal()
		}, time.Minute, 200*time.Millisecond, "model %s", model)
	}
}

// pgbench is PostgreSQL's own benchmark, and where Debian keeps it.
func pgbench(t *testing.T) string {
	t.Helper()
	if path, err := exec.LookPath("pgbench"); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/pgbench")
	if len(found) == 0 {
		if os.Getenv("CQRSYNC_TEST_REQUIRE") != "" {
			t.Fatal("pgbench is not installed (Debian: postgresql), and CQRSYNC_TEST_REQUIRE is set")
		}
		t.Skip("pgbench is not installed (Debian: postgresql)")
	}
	return found[len(found)-1]
}
