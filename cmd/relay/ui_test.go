package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
)

func TestRunServesTheDashboard(t *testing.T) {
	url := dbtest.Kinds()["sqlite"](t)
	broker := "sqlite://" + filepath.Join(t.TempDir(), "broker.db")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stderr output
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{"relay", "run", "--db", url, "--broker", broker, "--migrate",
			"--ui", "0"}, &bytes.Buffer{}, &stderr)
	}()
	stderr.wait(t, "msg=dashboard")
	require.Contains(t, stderr.String(), `who="who sits at this machine" actions=false`)
	require.Contains(t, fetch(t, stderr.String(), "/"), "cqrsync")
	stop()
	require.Equal(t, exit.Done, <-ended, stderr.String())
}

// What is open to the network without knowing who looks is refused, and no part of a token is said.
func TestTheDashboardIsNotOpenToEverybody(t *testing.T) {
	db := dbtest.Kinds()["sqlite"](t)
	require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", db, "--side", "outbox").code)
	run := func(args ...string) result {
		return invoke(t.Context(), append([]string{"run", "--db", db, "--broker",
			"sqlite://" + filepath.Join(t.TempDir(), "broker.db")}, args...)...)
	}
	r := run("--ui", "0.0.0.0:0")
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, "is open to the network: set CQRSYNC_UI_TOKEN or --ui-token-file, or --ui-user-header")
	r = run("--ui-actions", "--ui-user-header", "X-User")
	require.Equal(t, exit.Usage, r.code)
	require.Equal(t, 2, strings.Count(r.stderr, "set without --ui"))
	file := filepath.Join(t.TempDir(), "token")
	require.NoError(t, os.WriteFile(file, []byte("hunter2\n"), 0o600))
	r = run("--ui", "0", "--ui-token-file", file)
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, "the Token has 7 characters")
	require.NotContains(t, r.stderr, "hunter2")
	r = run("--ui", "0", "--ui-token-file", file+"x")
	require.Equal(t, exit.Usage, r.code)
}
