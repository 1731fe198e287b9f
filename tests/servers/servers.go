// Package servers starts servers that a test may stop, kill and start again: a PostgreSQL cluster,
// a MariaDB, a RabbitMQ node, a PgBouncer, each in a temporary directory and on a port of its own,
// from the programs that Debian installs.
//
// Where a program is not installed the test is skipped, or fails where CQRSYNC_TEST_REQUIRE names
// it (dbtest.Missing). Start and Stop return errors, because tests call them from other goroutines
// than their own. What the operating system must be asked for is in system_unix.go; elsewhere such
// tests compile and are skipped.
package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// startTimeout is how long a server may take to answer, on a machine that does much else.
const startTimeout = 2 * time.Minute

// FreePort is a TCP port that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

// directory makes one that a user can write, where this process is root: servers refuse to run as
// root.
func directory(t testing.TB, name string) (dir string, as *account) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cqrsync-"+name) //nolint:usetesting // others must get in
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	if os.Getuid() != 0 {
		return dir, nil
	}
	found, err := user.Lookup(name)
	require.NoError(t, err)
	uid, err := strconv.ParseUint(found.Uid, 10, 32)
	require.NoError(t, err)
	gid, err := strconv.ParseUint(found.Gid, 10, 32)
	require.NoError(t, err)
	require.NoError(t, os.Chown(dir, int(uid), int(gid)))
	return dir, &account{uint32(uid), uint32(gid)}
}

// account is whom a server runs as; nil is who this process is.
type account struct{ uid, gid uint32 }

// run runs a program that ends.
func run(as *account, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	runAs(cmd, as)
	cmd.Dir = "/"
	var output bytes.Buffer
	cmd.Stderr = &output // not Stdout: a server that it starts would keep a pipe open
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, &output)
	}
	return nil
}

// daemon is a server process, with those it starts.
type daemon struct {
	command *exec.Cmd
	port    int
	ended   chan struct{}
}

// launch starts command and returns when something listens on port.
func launch(command *exec.Cmd, port int) (*daemon, error) {
	leadGroup(command)
	if err := command.Start(); err != nil {
		return nil, err
	}
	d := &daemon{command: command, port: port, ended: make(chan struct{})}
	go func() {
		_ = command.Wait() // it is ended by a signal
		close(d.ended)
	}()
	deadline := time.After(startTimeout)
	for {
		if listening(port) {
			return d, nil
		}
		select {
		case <-d.ended:
			return d, fmt.Errorf("%s ended at its start: %s", command.Path, command.ProcessState)
		case <-deadline:
			err := fmt.Errorf("%s does not listen on port %d", command.Path, port)
			return d, errors.Join(err, d.stop(syscall.SIGKILL))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// signal sends one to the process and all that it started.
func (d *daemon) signal(signal os.Signal) error {
	number, ok := signal.(syscall.Signal)
	if !ok {
		return fmt.Errorf("%v cannot be sent on this system", signal)
	}
	return signalGroup(d.command.Process.Pid, number)
}

func listening(port int) bool {
	conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(
		context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err == nil {
		_ = conn.Close() // it was there
	}
	return err == nil
}

// stop sends a signal to the process and all that it started, and waits for its end: until the port
// is free, because the process may be a shell that ends before the server does, and the next start
// would take the old server for the new.
func (d *daemon) stop(signal syscall.Signal) error {
	if d == nil {
		return nil
	}
	if err := signalGroup(d.command.Process.Pid, signal); err != nil {
		return err
	}
	select {
	case <-d.ended:
	case <-time.After(time.Minute):
		if err := signalGroup(d.command.Process.Pid, syscall.SIGKILL); err != nil {
			return err
		}
		<-d.ended
	}
	deadline := time.Now().Add(time.Minute)
	for ; listening(d.port); <-time.After(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("%s has ended, and port %d is still taken", d.command.Path, d.port)
		}
	}
	return nil
}
