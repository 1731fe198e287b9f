package main

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestACommandWhoseInputStallsEndsWithASignal(t *testing.T) {
	t.Parallel()
	master, replica := tables(t, "outbox"), tables(t, "replica")
	const first = "order,2026-11-24 12:00:00.000000+00:00"
	for name, c := range map[string]struct {
		flags []string
		input string
	}{
		"load":                             {replica, "order\n"},
		"diff-replica":                     {replica, first + "\n[[1,0]]\n"},
		"diff-sync":                        {master, first + ",webhooks\n"},
		"deleted-diff-master":              {master, first + "\n"},
		"deleted-sync-replica":             {replica, first + "\n"},
		"load --input /dev/stdin":          {replica, ""},
		"diff-replica --input /dev/stdin":  {replica, ""},
		"diff-sync --resume FILE --rate 1": {master, first + ",webhooks\n[1]\n"},
	} {
		for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
			t.Run(name+" "+signal.String(), func(t *testing.T) {
				t.Parallel()
				args := strings.Fields(strings.ReplaceAll(name, "FILE", t.TempDir()+"/position"))
				cmd, input, stderr := stalling(t, c.input, on(c.flags, args...)...)
				require.NoError(t, cmd.Process.Signal(signal))
				ended := make(chan error, 1)
				go func() { ended <- cmd.Wait() }()
				select {
				case err := <-ended:
					require.Equal(t, 2, exitCode(t, err), stderr.String())
				case <-time.After(20 * time.Second):
					require.NoError(t, cmd.Process.Kill())
					require.Error(t, <-ended)
					t.Fatal("it waits for input that does not come")
				}
				require.Contains(t, stderr.String(), "interrupted")
				_ = input.Close() // Wait has closed it; until then it was open
			})
		}
	}
}

// stalling starts a command and waits until it has read its input, behind which nothing comes
// although the pipe stays open.
func stalling(t *testing.T, text string, args ...string) (*exec.Cmd, io.Closer, *bytes.Buffer) {
	t.Helper()
	path, err := os.Executable()
	require.NoError(t, err)
	cmd, stderr := exec.CommandContext(t.Context(), path, args...), &bytes.Buffer{}
	cmd.Env = append(os.Environ(), asRelay+"=1")
	cmd.Stderr = stderr
	input, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	// Empty lines are passed over. These are more than a pipe holds, so who wrote them knows that
	// most have been read.
	_, err = io.WriteString(input, text+strings.Repeat("\n", 300_000))
	require.NoError(t, err)
	return cmd, input, stderr
}
