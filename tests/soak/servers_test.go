package soak

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The servers of a soak test are its own, because it restarts them: a PostgreSQL cluster and a RabbitMQ node in temporary
// directories, from the programs that Debian installs.

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}

// missing skips the test where a program is not installed, or fails it where the service is required.
func missing(t *testing.T, service, program string) {
	t.Helper()
	message := fmt.Sprintf("needs its own %s to restart: %s is not installed", service, program)
	if slices.Contains(strings.Split(os.Getenv("CQRSYNC_TEST_REQUIRE"), ","), service) {
		t.Fatal(message)
	}
	t.Skip(message)
}

type postgres struct {
	t         *testing.T
	bin, data string
	port      int
	as        *syscall.Credential // who the server runs as: not root
}

func startPostgres(t *testing.T) *postgres {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	require.NoError(t, err)
	if len(found) == 0 {
		missing(t, "postgres", "initdb")
	}
	dir, err := os.MkdirTemp("", "cqrsync-soak-postgres") //nolint:usetesting // only its owner may enter the parent of t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	p := &postgres{t: t, bin: filepath.Dir(found[len(found)-1]), data: dir, port: freePort(t)}
	if os.Getuid() == 0 {
		account, err := user.Lookup("postgres")
		require.NoError(t, err)
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		require.NoError(t, err)
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		require.NoError(t, err)
		p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		require.NoError(t, os.Chown(dir, int(uid), int(gid)))
	}
	p.run("initdb", "-D", dir, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	p.start()
	t.Cleanup(func() { p.stop("immediate") })
	return p
}

func (p *postgres) run(program string, args ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	cmd.Dir = "/"
	var output bytes.Buffer
	cmd.Stderr = &output // not Stdout: the server would keep a pipe open
	require.NoError(p.t, cmd.Run(), "%s: %s", program, &output)
}

func (p *postgres) start() {
	p.t.Helper()
	p.run("pg_ctl", "-D", p.data, "-w", "-l", filepath.Join(p.data, "log"), "-o",
		fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories=%s -c fsync=off -c max_prepared_transactions=10", p.port, p.data), "start")
}

func (p *postgres) stop(mode string) {
	p.t.Helper()
	p.run("pg_ctl", "-D", p.data, "-w", "-m", mode, "stop")
}

func (p *postgres) url() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

type rabbitmq struct {
	t       *testing.T
	dir     string
	port    int
	process *exec.Cmd
	ended   chan struct{}
}

const rabbitmqServer = "/usr/lib/rabbitmq/bin/rabbitmq-server"

func startRabbitMQ(t *testing.T) *rabbitmq {
	t.Helper()
	if _, err := os.Stat(rabbitmqServer); err != nil {
		missing(t, "rabbitmq", rabbitmqServer)
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugins"), []byte("[].\n"), 0o600))
	r := &rabbitmq{t: t, dir: dir, port: freePort(t)}
	r.start()
	t.Cleanup(r.stop)
	return r
}

func (r *rabbitmq) start() {
	r.t.Helper()
	r.process = exec.Command(rabbitmqServer)
	r.process.Env = append(os.Environ(),
		"HOME="+r.dir, // its own cookie
		fmt.Sprintf("RABBITMQ_NODENAME=cqrsync-soak-%d@localhost", r.port),
		fmt.Sprintf("RABBITMQ_NODE_PORT=%d", r.port),
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", freePort(r.t)),
		"RABBITMQ_MNESIA_BASE="+r.dir+"/data", "RABBITMQ_LOG_BASE="+r.dir+"/log",
		"RABBITMQ_ENABLED_PLUGINS_FILE="+r.dir+"/plugins", "RABBITMQ_CONFIG_FILE="+r.dir+"/none",
		"RABBITMQ_PID_FILE="+r.dir+"/pid",
	)
	r.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(r.t, r.process.Start())
	r.ended = make(chan struct{})
	go func() {
		_ = r.process.Wait() // it is ended by a signal
		close(r.ended)
	}()
	require.Eventually(r.t, func() bool {
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", r.port), time.Second)
		if err == nil {
			err = conn.Close()
		}
		return err == nil
	}, 2*time.Minute, 100*time.Millisecond, "RabbitMQ did not start")
}

// stop ends the node and the shell that runs it.
func (r *rabbitmq) stop() {
	err := syscall.Kill(-r.process.Process.Pid, syscall.SIGTERM)
	if !errors.Is(err, syscall.ESRCH) {
		require.NoError(r.t, err)
	}
	select {
	case <-r.ended:
	case <-time.After(time.Minute):
		require.NoError(r.t, syscall.Kill(-r.process.Process.Pid, syscall.SIGKILL))
		<-r.ended
	}
}

func (r *rabbitmq) url() string { return fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", r.port) }
