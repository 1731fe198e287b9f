package anylanguage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// orderCopy is what the replica in Go keeps.
type orderCopy struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID     int64 `bun:",pk"`
	Number string
	Status string
}

// The page's commands, with a replica in Go beside the one in yaml: both end up with the shop's rows.
func TestReplicasFollowAShopInPython(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		if os.Getenv("CQRSYNC_TEST_REQUIRE") != "" {
			t.Fatal("python3 is not installed, and CQRSYNC_TEST_REQUIRE is set")
		}
		t.Skip("python3 is not installed: the shop is written in Python")
	}
	dir := t.TempDir()
	relay := filepath.Join(dir, "relay")
	call(t, "go", "build", "-C", "../..", "-o", relay, "./cmd/relay")
	shop, broker := filepath.Join(dir, "shop.db"), "sqlite://"+filepath.Join(dir, "broker.db")
	master := "sqlite://" + shop

	call(t, python, "shop.py", shop, "create")
	call(t, relay, "--db", master, "migrate")
	require.Error(t, exec.Command(relay, "--db", master, "capture", "check").Run(), "no triggers yet")
	call(t, relay, "--db", master, "capture", "install")
	call(t, relay, "--db", master, "capture", "check")

	inYAML, inGo := copies(t, filepath.Join(dir, "reports.db")), copies(t, filepath.Join(dir, "go.db"))
	serve(t, exec.Command(relay, "--db", "sqlite://"+filepath.Join(dir, "reports.db"), "replicate",
		"--config", "replica.yaml", "--broker", broker, "--migrate"))
	follow(t, inGo, broker)
	call(t, python, "shop.py", shop, "trade") // its queues may not be there yet: the relay is not, either
	serve(t, exec.Command(relay, "--db", master, "run", "--config", "cqrsync.yaml", "--broker", broker+"?mandatory=true"))
	call(t, python, "shop.py", shop, "trade")

	db, err := database.Open(master)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	var want []orderCopy
	require.NoError(t, db.NewRaw("SELECT id, number, status FROM orders ORDER BY id").Scan(t.Context(), &want))
	require.NotEmpty(t, want)
	for name, at := range map[string]*bun.DB{"yaml": inYAML, "Go": inGo} {
		var got []orderCopy
		require.Eventually(t, func() bool {
			got = nil
			require.NoError(t, at.NewSelect().Model(&got).Order("id").Scan(t.Context()))
			return equal(want, got)
		}, time.Minute, 50*time.Millisecond, "the replica in %s has %v, want %v", name, &got, want)
	}
}

func equal(a, b []orderCopy) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func call(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}

// serve runs a process until the test ends.
func serve(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = io.Discard, &out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(os.Interrupt))
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%v: %v: %s", cmd.Args, err, out.String())
		}
	})
}

func copies(t *testing.T, file string) *bun.DB {
	t.Helper()
	db, err := database.Open("sqlite://" + file)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	_, err = db.NewCreateTable().Model((*orderCopy)(nil)).Exec(t.Context())
	require.NoError(t, err)
	return db
}

// follow runs the replica in Go until the test ends.
func follow(t *testing.T, db *bun.DB, broker string) {
	t.Helper()
	rep, err := replica.New(db, replica.Config{Queue: "stats"})
	require.NoError(t, err)
	require.NoError(t, replica.Register[orderCopy](rep, "order"))
	require.NoError(t, rep.Migrate(t.Context()))
	subscriber, err := open.Subscriber(broker, "stats", open.Options{})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rep.Run(ctx, subscriber) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-done, subscriber.Close()); err != nil {
			t.Error(err)
		}
	})
}
