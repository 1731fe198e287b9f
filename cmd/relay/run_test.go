package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport/open"
)

const patience = 30 * time.Second

// output is a buffer that may be read while a command writes to it.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func (o *output) wait(t *testing.T, part string) {
	t.Helper()
	require.Eventually(t, func() bool { return bytes.Contains([]byte(o.String()), []byte(part)) }, patience, 10*time.Millisecond,
		"%q is not said", part)
}

func TestRunPublishesUntilItIsToldToStop(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, broker := newURL(t), "sqlite://"+filepath.Join(t.TempDir(), "broker.db")
			r := invoke(t.Context(), "run", "--db", url, "--broker", broker)
			if name == "sqlite" {
				require.Equal(t, exit.Usage, r.code)
				require.Contains(t, r.stderr, "does not exist: check the path")
			} else {
				require.Equal(t, exit.Failed, r.code)
				require.Contains(t, r.stderr, "run relay migrate")
			}

			subscriber, err := open.Subscriber(broker, "webhooks", open.Options{})
			require.NoError(t, err)
			defer func() { require.NoError(t, subscriber.Close()) }()
			messages, err := subscriber.Subscribe(t.Context(), "order")
			require.NoError(t, err)

			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var stderr output
			ended := make(chan int, 1)
			go func() {
				ended <- execute(ctx, []string{"relay", "run", "--db", url, "--broker", broker, "--migrate", "--log-format", "json",
					"--health", "0"},
					&bytes.Buffer{}, &stderr)
			}()
			stderr.wait(t, `"msg":"lanes owned"`)
			appendOrder(t, url)
			select {
			case m := <-messages:
				require.Equal(t, "1", m.Metadata.Get("cqrs_key"))
				m.Ack()
			case <-time.After(patience):
				require.FailNow(t, "no message", stderr.String())
			}
			require.Contains(t, fetch(t, stderr.String(), "/metrics"), "\ncqrsync_relay_confirmed_messages_total 1\n")
			require.Equal(t, "ready\n", fetch(t, stderr.String(), "/readyz"))
			stop()
			require.Equal(t, exit.Done, <-ended, stderr.String())
			require.Contains(t, stderr.String(), `"msg":"relay stopped","published":1,"dead_letters":0`)
		})
	}
}

// fetch asks the address that the log names.
func fetch(t *testing.T, log, path string) (body string) {
	t.Helper()
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(log)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(address + path)
	require.NoError(t, err)
	defer func() { require.NoError(t, response.Body.Close()) }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(text)
}

func appendOrder(t *testing.T, url string) {
	t.Helper()
	s, err := mastertest.New(dbtest.Open(t, url))
	require.NoError(t, err)
	require.NoError(t, s.Append(t.Context(), s.DB(), []queue.Message{{
		Model: "order", Key: "1", Signal: "SAVE", PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
	}}, nil))
}

func TestTheBinary(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "relay")
	build, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, ".").CombinedOutput()
	require.NoError(t, err, string(build))
	url := dbtest.SQLiteURL(t)
	broker := dbtest.SQLiteURL(t)

	require.Equal(t, exit.Done, exitCode(t, exec.CommandContext(t.Context(), binary, "migrate", "--db", url).Run()))
	require.Equal(t, exit.Done, exitCode(t, exec.CommandContext(t.Context(), binary, "status", "--db", url).Run()))
	require.Equal(t, exit.Usage, exitCode(t, exec.CommandContext(t.Context(), binary, "status", "--db", broker).Run()))
	require.Equal(t, exit.Usage, exitCode(t, exec.CommandContext(t.Context(), binary, "run").Run()))

	start := func(t *testing.T) (*exec.Cmd, *output) {
		cmd, stderr := exec.CommandContext(t.Context(), binary, "run"), &output{}
		cmd.Env = append(os.Environ(), "CQRSYNC_DB="+url, "CQRSYNC_BROKER="+broker)
		cmd.Stderr = stderr
		require.NoError(t, cmd.Start())
		stderr.wait(t, "lanes owned")
		return cmd, stderr
	}
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run("stops cleanly on "+signal.String(), func(t *testing.T) {
			cmd, stderr := start(t)
			require.NoError(t, cmd.Process.Signal(signal))
			require.Equal(t, exit.Done, exitCode(t, cmd.Wait()), stderr.String())
			require.Contains(t, stderr.String(), "relay stopped")
		})
	}
	t.Run("a second signal ends it at once", func(t *testing.T) {
		cmd, stderr := start(t)
		// Handing the lanes back waits for this transaction.
		tx, err := dbtest.Open(t, url).BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { require.NoError(t, tx.Rollback()) }()
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		stderr.wait(t, "stopping")
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		require.Eventually(t, func() bool {
			_ = cmd.Process.Signal(syscall.SIGTERM) // fails once it has ended
			select {
			case err := <-ended:
				ended <- err
				return true
			default:
				return false
			}
		}, 5*time.Second, 10*time.Millisecond, "it waits for the database")
		require.Equal(t, -1, exitCode(t, <-ended), "ended by the signal")
		require.NotContains(t, stderr.String(), "relay stopped")
	})
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return exit.Done
	}
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	return exit.ExitCode()
}
