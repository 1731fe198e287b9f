package servers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// RabbitMQCluster is three nodes of RabbitMQ, and an epmd of their own, by which they find each
// other.
type RabbitMQCluster struct {
	Nodes []*RabbitMQNode

	dir     string
	epmd    int // the port of process
	process *daemon
}

// RabbitMQNode is one of a cluster.
type RabbitMQNode struct {
	Name string
	Port int

	cluster  *RabbitMQCluster
	distPort int
	process  *daemon
}

// StartRabbitMQCluster starts three nodes, and joins them.
func StartRabbitMQCluster(t testing.TB) *RabbitMQCluster {
	t.Helper()
	if _, err := os.Stat(rabbitmqBin + "rabbitmq-server"); err != nil {
		dbtest.Missing(t, "rabbitmq-server", "install Debian's package rabbitmq-server")
	}
	c := &RabbitMQCluster{dir: t.TempDir(), epmd: OwnPort(t)}
	t.Cleanup(func() { require.NoError(t, c.stop()) })
	require.NoError(t, c.startEPMD())
	for i := range 3 {
		n := &RabbitMQNode{
			Name: fmt.Sprintf("cqrsync%d-%d@localhost", i+1, c.epmd), Port: OwnPort(t),
			cluster: c, distPort: OwnPort(t),
		}
		c.Nodes = append(c.Nodes, n)
		require.NoError(t, n.configure())
	}
	started := make(chan error)
	for _, n := range c.Nodes {
		go func() { started <- n.Start() }()
	}
	var errs []error
	for range c.Nodes {
		errs = append(errs, <-started)
	}
	require.NoError(t, errors.Join(errs...))
	for _, n := range c.Nodes[1:] {
		for _, command := range []string{"stop_app", "join_cluster " + c.Nodes[0].Name, "start_app"} {
			output, err := n.Control(t.Context(), "rabbitmqctl", strings.Fields(command)...)
			require.NoError(t, err, "%s: %s", command, output)
		}
	}
	return c
}

// startEPMD starts the daemon that the nodes would start themselves, and leave behind.
func (c *RabbitMQCluster) startEPMD() error {
	found, err := filepath.Glob("/usr/lib/erlang/erts-*/bin/epmd")
	if err != nil || len(found) == 0 {
		return errors.Join(errors.New("epmd is not where Debian puts it"), err)
	}
	command := exec.CommandContext(context.Background(), found[0], "-address", "127.0.0.1",
		"-port", fmt.Sprint(c.epmd))
	c.process, err = launch(command, c.epmd)
	return err
}

func (c *RabbitMQCluster) stop() error {
	var errs []error
	for _, n := range c.Nodes {
		errs = append(errs, n.Stop(syscall.SIGKILL))
	}
	return errors.Join(append(errs, c.process.stop(syscall.SIGTERM))...)
}

// rabbitmqConfig lets nodes notice soon that another one is gone, and keeps a minority from going
// on alone.
const rabbitmqConfig = `listeners.tcp.default = 127.0.0.1:%d
loopback_users = none
log.file.level = warning
cluster_partition_handling = pause_minority
`

func (n *RabbitMQNode) configure() error {
	if err := os.MkdirAll(n.path("home"), 0o700); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(n.path("conf"), fmt.Appendf(nil, rabbitmqConfig, n.Port), 0o600),
		os.WriteFile(n.path("plugins"), []byte("[].\n"), 0o600))
}

func (n *RabbitMQNode) path(what string) string {
	return filepath.Join(n.cluster.dir, fmt.Sprintf("%d-%s", n.Port, what))
}

func (n *RabbitMQNode) environment() []string {
	return append(os.Environ(), "HOME="+n.path("home"), "RABBITMQ_NODENAME="+n.Name,
		"RABBITMQ_ERLANG_COOKIE=cqrsync", fmt.Sprintf("RABBITMQ_DIST_PORT=%d", n.distPort),
		fmt.Sprintf("RABBITMQ_NODE_PORT=%d", n.Port), "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1",
		"RABBITMQ_MNESIA_BASE="+n.path("data"), "RABBITMQ_LOG_BASE="+n.path("log"),
		"RABBITMQ_PID_FILE="+n.path("pid"), "RABBITMQ_CONFIG_FILE="+n.path("conf"),
		"RABBITMQ_ENABLED_PLUGINS_FILE="+n.path("plugins"), "RABBITMQ_CONF_ENV_FILE=",
		"RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS=-kernel inet_dist_use_interface {127,0,0,1} "+
			"-kernel net_ticktime 8 +S 1:1",
		"ERL_EPMD_ADDRESS=127.0.0.1", fmt.Sprintf("ERL_EPMD_PORT=%d", n.cluster.epmd))
}

// Start starts the node, and waits until it serves clients. One that was killed a moment ago may
// still be known under its name, so that the new one gives up: it is started again.
func (n *RabbitMQNode) Start() (err error) {
	for range 5 {
		command := exec.CommandContext(context.Background(), rabbitmqBin+"rabbitmq-server")
		command.Env = n.environment()
		if n.process, err = launch(command, n.Port); err == nil {
			return nil
		}
		<-time.After(500 * time.Millisecond)
	}
	return err
}

// Control runs one of RabbitMQ's commands at the node.
func (n *RabbitMQNode) Control(
	ctx context.Context, program string, arguments ...string,
) (string, error) {
	command := exec.CommandContext(ctx, rabbitmqBin+program,
		append([]string{"-q", "-n", n.Name}, arguments...)...)
	command.Env = n.environment()
	output, err := command.CombinedOutput()
	return string(output), err
}

// Stop ends the node as Start's counterpart: with SIGTERM, or with SIGKILL, which is a crash.
func (n *RabbitMQNode) Stop(signal syscall.Signal) error { return n.process.stop(signal) }

// Freeze stops the node where it stands, as a machine that hangs: its connections stay, and nobody
// is told.
func (n *RabbitMQNode) Freeze() error { return n.process.signal(Freeze) }

// Thaw lets it go on.
func (n *RabbitMQNode) Thaw() error { return n.process.signal(Thaw) }

// URL names all nodes.
func (c *RabbitMQCluster) URL() string {
	var hosts []string
	for _, n := range c.Nodes {
		hosts = append(hosts, fmt.Sprintf("127.0.0.1:%d", n.Port))
	}
	return "amqp://guest:guest@" + strings.Join(hosts, ",") + "/"
}
