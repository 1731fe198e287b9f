package main

import (
	"bytes"
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// TestTranscriptsAreWhatHappens runs the console blocks of docs/operations.md, one after the other in one directory, and
// compares what is printed. Times are not compared.
func TestTranscriptsAreWhatHappens(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("psql"); err != nil {
		dbtest.Missing(t, dbtest.Postgres, "install Debian's package postgresql-client: the transcripts use psql")
	}
	master, replica := psqlURL(t), psqlURL(t)
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "bin", "relay"), ".")
	output, err := build.CombinedOutput()
	require.NoError(t, err, "%s", output)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cqrsync.yaml"), []byte("queue: webhooks\nmodels:\n  order:\n    table: orders\n"), 0o600))
	s := shell{t, dir, append(os.Environ(), "MASTER="+master, "REPLICA="+replica,
		"PATH="+filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))}

	text, err := os.ReadFile("../../docs/operations.md")
	require.NoError(t, err)
	steps := transcripts(string(text))
	require.Greater(t, len(steps), 20, "the console blocks were found")
	for _, step := range steps {
		if command, background := strings.CutSuffix(step.command, " &"); background {
			s.start(command)
			continue
		}
		require.Equal(t, timeless(step.output), timeless(s.run(step.command)), "$ %s", step.command)
	}
}

// psqlURL is the URL of an empty schema as psql takes it too.
func psqlURL(t *testing.T) string {
	u, err := url.Parse(dbtest.PostgresURL(t))
	require.NoError(t, err)
	query := u.Query()
	query.Set("options", "-csearch_path="+query.Get("search_path"))
	query.Del("search_path")
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	return u.String()
}

type step struct{ command, output string }

func transcripts(text string) (steps []step) {
	for _, block := range regexp.MustCompile("(?s)```console\n(.*?)```").FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(block[1]) {
			if command, is := strings.CutPrefix(line, "$ "); is {
				steps = append(steps, step{command: strings.TrimSuffix(command, "\n")})
			} else {
				steps[len(steps)-1].output += line
			}
		}
	}
	return steps
}

var aTime = regexp.MustCompile(`2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00:00`)

func timeless(text string) string {
	return strings.TrimSuffix(aTime.ReplaceAllString(text, "TIME"), "\n")
}

type shell struct {
	*testing.T
	dir string
	env []string
}

func (s shell) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir, cmd.Env = s.dir, s.env
	return cmd
}

func (s shell) run(line string) string {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	output, err := s.command(ctx, line).CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited { //nolint:errorlint // as os/exec returns it
		require.NoError(s, err, line)
	}
	return string(output)
}

// start runs a line until the test ends.
func (s shell) start(line string) {
	var log bytes.Buffer
	cmd := s.command(context.WithoutCancel(s.Context()), "exec "+line)
	cmd.Stdout, cmd.Stderr = &log, &log
	require.NoError(s, cmd.Start())
	s.Cleanup(func() {
		require.NoError(s, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(s, cmd.Wait(), log.String())
	})
}
