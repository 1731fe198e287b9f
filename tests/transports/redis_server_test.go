package transports_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/transport"
)

// ownRedis is a server of the test's own, which it may stop.
type ownRedis struct {
	t       testing.TB
	port    int
	dir     string
	options []string
	cmd     *exec.Cmd
}

func newOwnRedis(t testing.TB, options ...string) *ownRedis {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		dbtest.Missing(t, "redis-server", "install Debian's package redis-server")
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	o := &ownRedis{t: t, port: listener.Addr().(*net.TCPAddr).Port, dir: t.TempDir(), options: options}
	require.NoError(t, listener.Close())
	o.start()
	t.Cleanup(o.stop)
	return o
}

func (o *ownRedis) url() string { return fmt.Sprintf("redis://127.0.0.1:%d/0", o.port) }

func (o *ownRedis) start() {
	arguments := []string{"--port", strconv.Itoa(o.port), "--bind", "127.0.0.1", "--dir", o.dir, "--save", ""}
	o.cmd = exec.Command("redis-server", append(arguments, o.options...)...)
	require.NoError(o.t, o.cmd.Start())
	require.Eventually(o.t, func() bool {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", o.port))
		return err == nil && conn.Close() == nil
	}, time.Minute, 20*time.Millisecond)
}

func (o *ownRedis) stop() {
	if o.cmd != nil {
		require.NoError(o.t, o.cmd.Process.Kill())
		_ = o.cmd.Wait() // it was killed
		o.cmd = nil
	}
}

// A server that is killed and comes back, with what it wrote down, loses nothing that it confirmed,
// and nobody has to be restarted.
func TestRedisServerComesBack(t *testing.T) {
	o := newOwnRedis(t, "--appendonly", "yes", "--appendfsync", "always")
	r := &redisPlace{address: o.url(), prefix: "{cqrs}:"}
	queue, topic := unique("queue"), unique("topic")
	messages, err := r.subscriber(t, queue, "lease=2s&confirm_timeout=2s").SubscribeWindow(t.Context(), topic, 20)
	require.NoError(t, err)
	pub := r.publisher(t, "connect_timeout=2s")
	missing := map[string]bool{}
	publish := func() bool {
		batch := outgoing(topic, 5)
		ok := true
		for i, err := range pub.PublishBatch(t.Context(), batch) {
			if err != nil {
				require.ErrorIs(t, err, transport.ErrUnavailable)
				ok = false
				continue
			}
			missing[batch[i].Message.UUID] = true
		}
		return ok
	}
	for range 3 {
		require.Eventually(t, publish, patience, 20*time.Millisecond)
		held := receive(t, messages)
		o.stop()
		require.False(t, publish())
		require.ErrorIs(t, pub.Probe(t.Context()), transport.ErrUnavailable)
		delete(missing, held.UUID)
		held.Ack() // perhaps it comes again
		o.start()
		require.Eventually(t, publish, patience, 20*time.Millisecond)
		for len(missing) > 0 {
			msg := receive(t, messages)
			delete(missing, msg.UUID)
			msg.Ack()
		}
	}
}

// A server that would drop messages is refused, one that is full says so of each message, and who
// may not log in learns no password.
func TestRedisServersThatAreNotFit(t *testing.T) {
	evicts := &redisPlace{address: newOwnRedis(t, "--maxmemory-policy", "allkeys-lru").url(), prefix: "{cqrs}:"}
	_, err := evicts.subscriber(t, "stats", "").Subscribe(t.Context(), "order")
	require.ErrorContains(t, err, "want noeviction")
	require.NotErrorIs(t, err, transport.ErrUnavailable)

	small := &redisPlace{address: newOwnRedis(t, "--maxmemory", "3mb").url(), prefix: "{cqrs}:"}
	messages, err := small.subscriber(t, "stats", "").SubscribeWindow(t.Context(), "order", 100)
	require.NoError(t, err)
	pub := small.publisher(t, "")
	large := func() *message.Message { return message.NewMessage(unique("large"), make([]byte, 100_000)) }
	var full error
	stored := 0
	for full == nil && stored < 100 {
		if full = pub.Publish("order", large()); full == nil {
			stored++
		}
	}
	require.ErrorIs(t, full, transport.ErrRejected)
	acked(t, messages, stored)
	require.Eventually(t, func() bool { return pub.Publish("order", large()) == nil }, patience, 10*time.Millisecond)

	secret := newOwnRedis(t)
	client := goredis.NewClient(&goredis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", secret.port)})
	require.NoError(t, client.ConfigSet(t.Context(), "requirepass", "s3cret").Err())
	require.NoError(t, client.Close())
	wrong := &redisPlace{address: fmt.Sprintf("redis://user:s3cretX@127.0.0.1:%d", secret.port), prefix: "{cqrs}:"}
	err = wrong.publisher(t, "").Probe(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.NotContains(t, err.Error(), "s3cret")
	right := &redisPlace{address: fmt.Sprintf("redis://:s3cret@127.0.0.1:%d", secret.port), prefix: "{cqrs}:"}
	require.NoError(t, right.publisher(t, "").Probe(t.Context()))
}

// Nobody waits for a server longer than told.
func TestRedisServerThatIsAway(t *testing.T) {
	away := &redisPlace{address: "redis://127.0.0.1:1", prefix: "{cqrs}:"}
	for _, err := range away.publisher(t, "connect_timeout=1s").PublishBatch(t.Context(), outgoing("order", 2)) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
	}
	sub := away.subscriber(t, "queue", "connect_timeout=1s")
	_, err := sub.Subscribe(t.Context(), "order")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	_, err = sub.HasQueue(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
}

func TestRedisWithTLS(t *testing.T) {
	certificate, key := selfSigned(t, t.TempDir())
	o := newOwnRedis(t)
	o.stop()
	o.options = []string{"--port", "0", "--tls-port", strconv.Itoa(o.port), "--tls-cert-file", certificate,
		"--tls-key-file", key, "--tls-ca-cert-file", certificate, "--tls-auth-clients", "optional"}
	o.start()
	over := &redisPlace{address: fmt.Sprintf("rediss://127.0.0.1:%d", o.port), prefix: "{cqrs}:"}
	for _, options := range []string{"", "certfile=" + certificate + "&keyfile=" + key + "&"} {
		options += "cacertfile=" + certificate
		messages, err := over.subscriber(t, unique("stats"), options).SubscribeWindow(t.Context(), "order", 5)
		require.NoError(t, err)
		batch := outgoing("order", 3)
		accepted(t, over.publisher(t, options).PublishBatch(t.Context(), batch), 3)
		require.Equal(t, ids(batch), acked(t, messages, 3), "with %s", options)
	}
	require.ErrorIs(t, over.publisher(t, "").Probe(t.Context()), transport.ErrUnavailable,
		"nobody known has signed it")
}

// The permissions that docs/transports.md names are enough.
func TestRedisPermissionsOfTheDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/transports.md")
	require.NoError(t, err)
	_, text, found := strings.Cut(string(page), "Permissions: the keys and channels")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "\n\n")
	rules := []any{"ACL", "SETUSER", "service", "on", ">x"}
	for _, quoted := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		switch name := quoted[1]; {
		case strings.HasSuffix(name, "*"):
			rules = append(rules, "~"+name, "&"+name)
		default:
			rules = append(rules, "+"+strings.ToLower(strings.ReplaceAll(name, " ", "|")))
		}
	}
	o := newOwnRedis(t)
	admin := goredis.NewClient(&goredis.Options{Addr: fmt.Sprintf("127.0.0.1:%d", o.port)})
	defer func() { require.NoError(t, admin.Close()) }()
	require.NoError(t, admin.Do(t.Context(), rules...).Err(), rules)
	r := &redisPlace{address: fmt.Sprintf("redis://service:x@127.0.0.1:%d", o.port), prefix: "{cqrs}:"}
	sub, pub := r.subscriber(t, "stats", ""), r.publisher(t, "")
	messages, err := sub.SubscribeWindow(t.Context(), "order", 5)
	require.NoError(t, err)
	_, err = sub.Register(t.Context(), "database")
	require.NoError(t, err)
	batch := outgoing("order", 3)
	batch[1].Message.Metadata.Set(transport.ExpirationKey, "60000")
	accepted(t, pub.PublishBatch(t.Context(), batch), 3)
	for range 3 {
		msg := receive(t, messages)
		msg.Nack()
		receive(t, messages).Ack()
	}
	accepted(t, pub.PublishBatch(t.Context(), outgoing(transport.DirectTopic(sub.DeadLetterQueue(), "order"), 2)), 2)
	require.NoError(t, sub.EachDeadLetter(t.Context(), sub.DeadLetterQueue(), func(l transport.DeadLetter) (bool, error) {
		return true, l.Remove()
	}))
	_, err = sub.PurgeDeadLetters(t.Context(), sub.DeadLetterQueue())
	require.NoError(t, err)
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "service", "-xadd").Err())
	err = pub.PublishBatch(t.Context(), outgoing("order", 1))[0]
	require.ErrorIs(t, err, transport.ErrDestination, "it lasts until an operator mends it")
}
