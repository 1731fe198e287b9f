package transports_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// A broker short of disk blocks whoever publishes. That is nobody's message's fault: nothing is parked, no attempt is
// spent, and when the alarm ends everything leaves. The broker is one of the test's own, because others share the first.
func TestAMQPABrokerUnderAlarmIsUnavailableAndCostsNoAttempt(t *testing.T) {
	t.Parallel()
	node := startRabbitNode(t)
	config, err := amqp.NewConfig(node.url+"?confirm_timeout=300ms", "stats")
	require.NoError(t, err)
	sub, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	require.NoError(t, sub.SubscribeInitialize("order"))
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	accepted(t, pub.PublishBatch(t.Context(), outgoing("order", 1)), 1)

	node.ctl(t, "set_disk_free_limit", "1000000GB")
	for range 2 { // on the connection that was there, and on a new one
		errs := pub.PublishBatch(t.Context(), outgoing("order", 2))
		require.ErrorIs(t, errs[0], transport.ErrUnavailable)
		require.ErrorContains(t, errs[1], "RabbitMQ has blocked publishers for 300ms: low on disk")
	}

	s, err := store.New(dbtest.Open(t, dbtest.SQLiteURL(t)), store.Names{})
	require.NoError(t, err)
	_, err = s.Migrate(t.Context(), store.Outbox)
	require.NoError(t, err)
	require.NoError(t, s.Append(t.Context(), s.DB(), []store.Message{{
		Model: "order", Key: "1", Signal: "SAVE", PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
	}}, nil))
	var log lockedBuffer
	rel, err := relay.New(s.DB(), pub, relay.Config{MaxAttempts: 1, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	defer func() {
		stop()
		require.NoError(t, <-ended)
	}()
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "broker unavailable, trying again") }, patience, 10*time.Millisecond)
	require.Contains(t, log.String(), "low on disk")
	st, err := s.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, int64(1), st.Unsent)
	require.Zero(t, st.Retries+st.DeadLetters)

	node.ctl(t, "set_disk_free_limit", "1MB")
	require.Eventually(t, func() bool {
		st, err := s.Status(t.Context())
		require.NoError(t, err)
		return st.Unsent == 0
	}, patience, 20*time.Millisecond)
	require.Zero(t, rel.Stats().Retries+rel.Stats().DeadLetters)
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// rabbitNode is a RabbitMQ server that ends with the test.
type rabbitNode struct {
	name, url string
	env       []string
}

const rabbitBin = "/usr/lib/rabbitmq/bin/" // Debian's, without the wrapper that wants to be another user

func startRabbitNode(t *testing.T) *rabbitNode {
	t.Helper()
	if _, err := os.Stat(rabbitBin + "rabbitmq-server"); err != nil {
		dbtest.Missing(t, "rabbitmq-server", "install Debian's package rabbitmq-server: this test starts a broker of its own")
	}
	dir, port := t.TempDir(), freePort(t)
	n := &rabbitNode{
		name: fmt.Sprintf("cqrsync_%d_%d@localhost", os.Getpid(), port),
		url:  fmt.Sprintf("amqp://guest:guest@127.0.0.1:%d/", port),
	}
	enabled := filepath.Join(dir, "enabled_plugins")
	require.NoError(t, os.WriteFile(enabled, []byte("[].\n"), 0o600))
	n.env = append(os.Environ(),
		"HOME="+dir, // of the cookie
		"RABBITMQ_NODENAME="+n.name, "RABBITMQ_NODE_IP_ADDRESS=127.0.0.1", fmt.Sprint("RABBITMQ_NODE_PORT=", port),
		fmt.Sprint("RABBITMQ_DIST_PORT=", freePort(t)), "RABBITMQ_MNESIA_BASE="+dir, "RABBITMQ_LOG_BASE="+dir,
		"RABBITMQ_ENABLED_PLUGINS_FILE="+enabled, "RABBITMQ_CONF_ENV_FILE=", "RABBITMQ_CONFIG_FILE="+filepath.Join(dir, "none"),
	)
	server := exec.Command(rabbitBin + "rabbitmq-server")
	server.Env = n.env
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a shell and what it starts
	var log lockedBuffer
	server.Stdout, server.Stderr = &log, &log
	require.NoError(t, server.Start())
	ended := make(chan struct{})
	go func() {
		_ = server.Wait() // it is killed
		close(ended)
	}()
	t.Cleanup(func() {
		require.NoError(t, syscall.Kill(-server.Process.Pid, syscall.SIGKILL))
		<-ended
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, 2*patience, 100*time.Millisecond, "the broker does not start: %s", log.String())
	n.ctl(t, "await_startup")
	return n
}

func (n *rabbitNode) ctl(t *testing.T, arguments ...string) {
	t.Helper()
	ctl := exec.CommandContext(t.Context(), rabbitBin+"rabbitmqctl", append([]string{"-n", n.name}, arguments...)...)
	ctl.Env = n.env
	out, err := ctl.CombinedOutput()
	require.NoError(t, err, string(out))
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { require.NoError(t, listener.Close()) }()
	return listener.Addr().(*net.TCPAddr).Port
}
