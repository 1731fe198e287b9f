package servers

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// rabbitmqBin holds the programs themselves, where the scripts of the same names in the PATH insist
// on a user.
const rabbitmqBin = "/usr/lib/rabbitmq/bin/"

// RabbitMQ is a RabbitMQ node.
type RabbitMQ struct {
	dir            string
	port, distPort int
	process        *daemon
}

// StartRabbitMQ makes a node and starts it.
func StartRabbitMQ(t testing.TB) *RabbitMQ {
	t.Helper()
	if _, err := os.Stat(rabbitmqBin + "rabbitmq-server"); err != nil {
		dbtest.Missing(t, "rabbitmq-server", "install Debian's package rabbitmq-server")
	}
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plugins"), []byte("[].\n"), 0o600))
	r := &RabbitMQ{dir: dir, port: FreePort(t), distPort: FreePort(t)}
	t.Cleanup(func() { require.NoError(t, r.Stop(syscall.SIGTERM)) })
	require.NoError(t, r.Start())
	return r
}

// Start starts the node and waits until it answers. A node that was killed a moment ago may still
// be known under its name, so that the new one gives up: it is started again.
func (r *RabbitMQ) Start() (err error) {
	for range 5 {
		if err = r.startOnce(); err == nil {
			return nil
		}
		<-time.After(500 * time.Millisecond)
	}
	return err
}

func (r *RabbitMQ) startOnce() error {
	command := exec.CommandContext(context.Background(), rabbitmqBin+"rabbitmq-server")
	command.Env = append(r.environment(),
		fmt.Sprintf("RABBITMQ_NODE_PORT=%d", r.port),
		"RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		fmt.Sprintf("RABBITMQ_DIST_PORT=%d", r.distPort),
		"RABBITMQ_MNESIA_BASE="+r.dir+"/data", "RABBITMQ_LOG_BASE="+r.dir+"/log",
		"RABBITMQ_ENABLED_PLUGINS_FILE="+r.dir+"/plugins", "RABBITMQ_CONFIG_FILE="+r.dir+"/none",
		"RABBITMQ_CONF_ENV_FILE=",
		"RABBITMQ_PID_FILE="+r.dir+"/pid",
	)
	var err error
	r.process, err = launch(command, r.port)
	return err
}

func (r *RabbitMQ) name() string { return fmt.Sprintf("cqrsync-%d@localhost", r.port) }

// environment gives the node, and those who talk to it, a cookie of its own.
func (r *RabbitMQ) environment() []string {
	return append(os.Environ(), "HOME="+r.dir, "RABBITMQ_NODENAME="+r.name())
}

// Control runs a command of rabbitmqctl on the node.
func (r *RabbitMQ) Control(t testing.TB, arguments ...string) {
	t.Helper()
	command := exec.CommandContext(t.Context(), rabbitmqBin+"rabbitmqctl",
		append([]string{"-n", r.name()}, arguments...)...)
	command.Env = r.environment()
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
}

// Stop ends the node and the shell that runs it: with SIGTERM, or with SIGKILL, which is a crash.
func (r *RabbitMQ) Stop(signal syscall.Signal) error { return r.process.stop(signal) }

// URL is that of its default virtual host.
func (r *RabbitMQ) URL() string { return fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", r.port) }

// Address is its host and port.
func (r *RabbitMQ) Address() string { return fmt.Sprintf("127.0.0.1:%d", r.port) }
