//go:build unix

package django

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// process is one that goes on until it is stopped, or the test ends.
type process struct {
	*testing.T
	name string
	cmd  *exec.Cmd
	log  *logged
	once sync.Once
}

// start starts cmd with its variables added to the test's.
func start(t *testing.T, name string, cmd *exec.Cmd, variables ...string) *process {
	t.Helper()
	p := &process{T: t, name: name, cmd: cmd, log: &logged{}}
	cmd.Env = append(os.Environ(), variables...)
	cmd.Stderr = p.log
	if cmd.Stdout == nil {
		cmd.Stdout = p.log
	}
	require.NoError(t, cmd.Start(), name)
	t.Cleanup(p.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what %s said:\n%s", name, p.log.String())
		}
	})
	return p
}

// stop ends it as a deployment does, and waits.
func (p *process) stop() {
	p.once.Do(func() {
		require.NoError(p, p.cmd.Process.Signal(syscall.SIGTERM), p.name)
		done := make(chan error, 1)
		go func() { done <- p.cmd.Wait() }()
		select {
		case err := <-done:
			require.NoError(p, err, "%s: %s", p.name, p.log.String())
		case <-time.After(30 * time.Second):
			_ = p.cmd.Process.Kill() // the test fails anyway
			require.Fail(p, p.name+" does not end", "%v: %s", <-done, p.log)
		}
	})
}

// logged is what a process says, readable while it goes on.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// actor is a Django process that runs lines of Python: see project/actions.
type actor struct {
	name    string
	mu      sync.Mutex
	in      io.WriteCloser
	replies *bufio.Reader
}

func (d deployment) actor(name string, variables ...string) *actor {
	d.Helper()
	cmd := d.manage(context.WithoutCancel(d.Context()), "act")
	in, err := cmd.StdinPipe()
	require.NoError(d, err)
	out, w, err := os.Pipe()
	require.NoError(d, err)
	cmd.Stdout = w
	p := &process{T: d.T, name: name, cmd: cmd, log: &logged{}}
	cmd.Env, cmd.Stderr = append(os.Environ(), variables...), p.log
	require.NoError(d, cmd.Start(), name)
	require.NoError(d, w.Close())
	d.Cleanup(func() {
		require.NoError(d, in.Close(), "the end of its input ends it")
		require.NoError(d, cmd.Wait(), "%s: %s", name, p.log.String())
		require.NoError(d, out.Close())
		if d.Failed() {
			d.Logf("what %s said:\n%s", name, p.log.String())
		}
	})
	return &actor{name: name, in: in, replies: bufio.NewReader(out)}
}

// do runs Python and returns what it has set answer to.
func (a *actor) do(t require.TestingT, code string) json.RawMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tell(t, code)
	return a.answer(t)
}

// tell begins to run Python; answer has to follow.
func (a *actor) tell(t require.TestingT, code string) {
	line, err := json.Marshal(code)
	require.NoError(t, err)
	_, err = a.in.Write(append(line, '\n'))
	require.NoError(t, err, a.name)
}

func (a *actor) answer(t require.TestingT) json.RawMessage {
	reply, err := a.replies.ReadBytes('\n')
	require.NoError(t, err, "%s ended", a.name)
	var r struct {
		Answer json.RawMessage
		Error  string
	}
	require.NoError(t, json.Unmarshal(reply, &r), "%s", reply)
	require.Empty(t, r.Error, a.name)
	return r.Answer
}
