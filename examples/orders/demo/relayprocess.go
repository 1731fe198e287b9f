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

// NewRelayProcess makes one. The command must write a line to its standard output when it begins to publish, and end
// when its standard input does.
func NewRelayProcess(command func() *exec.Cmd) *RelayProcess {
	return &RelayProcess{command: command, kills: make(chan chan struct{})}
}

// patience is how long Kill waits for a relay to publish, and Run for one to end.
const patience = 15 * time.Second

// Run keeps the process running until ctx ends, and starts it again after each Kill. That it ends by itself is an
// error.
func (r *RelayProcess) Run(ctx context.Context) error {
	for {
		killed, err := r.once(ctx)
		if err != nil || !killed {
			return err
		}
	}
}

func (r *RelayProcess) once(ctx context.Context) (killed bool, err error) {
	command := r.command()
	stdin, err := command.StdinPipe()
	if err != nil {
		return false, fmt.Errorf("start relay process: %w", err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return false, fmt.Errorf("start relay process: %w", err)
	}
	if err := command.Start(); err != nil {
		return false, fmt.Errorf("start relay process: %w", err)
	}
	publishes, exited := make(chan struct{}), make(chan error, 1)
	go func() {
		out := bufio.NewReader(stdout)
		if _, err := out.ReadString('\n'); err == nil {
			close(publishes)
		}
		_, _ = io.Copy(io.Discard, out) // to its end: only then may Wait be called
		exited <- command.Wait()
	}()
	kill := func() error {
		err := command.Process.Kill()
		<-exited // that it was killed
		return err
	}
	give := time.NewTimer(patience)
	defer give.Stop()
	var kills chan chan struct{} // nil until a kill would hurt
	for {
		select {
		case <-publishes:
			publishes, kills = nil, r.kills
		case <-give.C:
			kills = r.kills // it has nothing to publish
		case done := <-kills:
			defer close(done)
			return true, kill()
		case err := <-exited:
			if ctx.Err() != nil {
				return false, err // Ctrl-C reaches both processes
			}
			return false, fmt.Errorf("the relay process ended by itself (%s)", command.ProcessState)
		case <-ctx.Done():
			return false, end(stdin, exited, kill)
		}
	}
}

// end asks the process to stop, by the end of its input.
func end(stdin io.Closer, exited <-chan error, kill func() error) error {
	if err := stdin.Close(); err != nil {
		return errors.Join(err, kill())
	}
	select {
	case err := <-exited:
		return err
	case <-time.After(patience):
		return errors.Join(fmt.Errorf("the relay process did not stop within %s", patience), kill())
	}
}

// Kill ends the process with SIGKILL, in the middle of its work: right after it began to publish, if it does so within
// some seconds. Run starts the next one.
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
