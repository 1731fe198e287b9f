// Package transcript runs the console blocks of a page of the documentation and compares what is
// printed, so that a page shows what happens.
//
// Test packages only; the linter keeps it out of the library.
//
//	```console
//	$ cat cqrsync.yaml
//	queue: webhooks
//	$ relay replicate --db "$REPLICA" &
//	$ kill %1
//	```
//
// Each command is a line of bash of its own, in one folder. One that ends with & goes on until kill
// ends it, or the test does; kill %2 means the second one of the page. A file that is shown with
// cat and does not exist is made as it is shown. Times of day, and how long something
// took ("in 1.2s"), are not compared.
package transcript

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Step is a command and what the page says that it prints.
type Step struct{ Command, Output string }

var block = regexp.MustCompile("(?s)```console\n(.*?)```")

// Steps are those of a page, or of a part of it.
func Steps(text string) (steps []Step) {
	for _, found := range block.FindAllStringSubmatch(text, -1) {
		for line := range strings.Lines(found[1]) {
			if command, is := strings.CutPrefix(line, "$ "); is {
				steps = append(steps, Step{Command: strings.TrimSuffix(command, "\n")})
			} else {
				steps[len(steps)-1].Output += line
			}
		}
	}
	return steps
}

// Shell is where the commands run.
type Shell struct {
	testing.TB
	Folder string
	Env    []string
	// Shown, if set, makes what a command printed into what the page shows of it, and Meant what
	// the page shows into what is meant: a name that tests have to make unique.
	Shown, Meant func(string) string

	jobs []*job
}

// job is a command that goes on.
type job struct {
	cmd   *exec.Cmd
	log   bytes.Buffer
	ended bool
}

// Run runs the steps, one after the other.
func (s *Shell) Run(steps []Step) {
	s.Helper()
	for _, step := range steps {
		if file, is := strings.CutPrefix(step.Command, "cat "); is {
			s.make(file, step.Output)
		}
		if command, is := strings.CutSuffix(step.Command, " &"); is {
			s.start(command)
			continue
		}
		if number, is := strings.CutPrefix(step.Command, "kill %"); is {
			n, err := strconv.Atoi(number)
			require.NoError(s, err, step.Command)
			require.LessOrEqual(s, n, len(s.jobs), step.Command)
			s.end(s.jobs[n-1])
			continue
		}
		output := s.run(step.Command)
		if s.Shown != nil {
			output = s.Shown(output)
		}
		require.Equal(s, timeless(step.Output), timeless(output), "$ %s", step.Command)
	}
}

func (s *Shell) make(file, text string) {
	path := filepath.Join(s.Folder, file)
	if _, err := os.Stat(path); err == nil {
		return
	}
	if s.Meant != nil {
		text = s.Meant(text)
	}
	require.NoError(s, os.WriteFile(path, []byte(text), 0o600))
}

var (
	aTime   = regexp.MustCompile(`2\d{3}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?(\+00(:00)?|Z)`)
	howLong = regexp.MustCompile(`\bin ([0-9.]+m)?[0-9.]+m?s\b`)
)

func timeless(text string) string {
	text = howLong.ReplaceAllString(aTime.ReplaceAllString(text, "TIME"), "in TIME")
	return strings.TrimSuffix(text, "\n")
}

func (s *Shell) command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", line) //nolint:gosec // a page of ours
	cmd.Dir, cmd.Env = s.Folder, s.Env
	return cmd
}

func (s *Shell) run(line string) string {
	ctx, cancel := context.WithTimeout(s.Context(), time.Minute)
	defer cancel()
	output, err := s.command(ctx, line).CombinedOutput()
	//nolint:errorlint // as os/exec returns it
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		require.NoError(s, err, line)
	}
	return string(output)
}

// start runs a line until kill ends it, or the test.
func (s *Shell) start(line string) {
	j := &job{cmd: s.command(context.WithoutCancel(s.Context()), "exec "+line)}
	j.cmd.Stdout, j.cmd.Stderr = &j.log, &j.log
	require.NoError(s, j.cmd.Start())
	s.jobs = append(s.jobs, j)
	s.Cleanup(func() { s.end(j) })
}

func (s *Shell) end(j *job) {
	if j.ended {
		return
	}
	j.ended = true
	require.NoError(s, j.cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(s, j.cmd.Wait(), &j.log)
}
