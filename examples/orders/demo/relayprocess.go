package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"time"
)

// RelayProcess keeps a relay running in a process of its own, and kills it on demand.
type RelayProcess struct {
	command func() *exec.Cmd
	kills   chan chan struct{}
}

// NewRelayProcess makes one. The command must write a line to its standard output when it begins to
// publish, and end when its standard input does.
func NewRelayProcess(command func() *exec.Cmd) *RelayProcess {
	return &RelayProcess{command: command, kills: make(chan chan struct{})}
}

// patience is how long Kill waits for a relay to publish, and Run for one to end.
const patience = 15 * time.Second

// Run keeps the process running until ctx ends, and starts it again after each Kill.
// That it ends by itself is an error.
func (r *RelayProcess) Run(ctx context.Context) error {
	for {
		running, err := start(r.command())
		if err != nil {
			return fmt.Errorf("start relay process: %w", err)
		}
		if killed, err := r.watch(ctx, running); err != nil || !killed {
			return err
		}
	}
}

// Kill ends the process with SIGKILL, in the middle of its work: right after it began to publish,
// if it does so within some seconds. Run starts the next one.
func (r *RelayProcess) Kill(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case r.kills <- done:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// watch returns when the process has ended, for whatever reason.
func (r *RelayProcess) watch(ctx context.Context, running *child) (killed bool, err error) {
	idle := time.NewTimer(patience)
	defer idle.Stop()
	publishes, kills := running.publishes, (chan chan struct{})(nil)
	for {
		select {
		case <-publishes:
			publishes, kills = nil, r.kills
		case <-idle.C:
			kills = r.kills // it has nothing to publish
		case done := <-kills:
			defer close(done)
			return true, running.kill()
		case <-running.exited:
			if ctx.Err() != nil {
				return false, running.err // Ctrl-C reaches both processes
			}
			return false, fmt.Errorf("the relay process ended by itself (%s)", running.command.ProcessState)
		case <-ctx.Done():
			return false, running.end()
		}
	}
}

// child is one process.
type child struct {
	command   *exec.Cmd
	stdin     io.Closer
	publishes chan struct{} // closed when it begins to publish
	exited    chan struct{} // closed when it has ended, with err
	err       error
}

func start(command *exec.Cmd) (*child, error) {
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	c := &child{
		command: command, stdin: stdin,
		publishes: make(chan struct{}), exited: make(chan struct{}),
	}
	go func() {
		defer close(c.exited)
		out := bufio.NewReader(stdout)
		if _, err := out.ReadString('\n'); err == nil {
			close(c.publishes)
		}
		_, _ = io.Copy(io.Discard, out) // Wait may only be called at its end
		c.err = command.Wait()
	}()
	return c, nil
}

func (c *child) kill() error {
	err := c.command.Process.Kill()
	<-c.exited
	return err
}

// end asks the process to stop, by the end of its input.
func (c *child) end() error {
	if err := c.stdin.Close(); err != nil {
		return errors.Join(err, c.kill())
	}
	select {
	case <-c.exited:
		return c.err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the relay process did not stop within %s", patience), c.kill())
	}
}
