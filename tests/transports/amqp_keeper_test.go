package transports_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

const pollEvery = 5 * time.Millisecond

// A kept queue is what its consumer would declare, and has no consumer.
func TestAMQPKeptQueueIsDjangos(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	require.NoError(t, r.subscriber(t, queue).KeepQueue(t.Context(), []string{topic}))
	channel := r.channel(t)
	for _, name := range []string{queue, amqp.DeadLetterQueue(queue)} {
		state, err := channel.QueueDeclare(name, true, false, false, false, nil)
		require.NoError(t, err)
		require.Zero(t, state.Consumers)
	}
	dead := "dead_letter_" + queue
	direct := outgoing(transport.DirectTopic(dead, topic), 1)
	accepted(t, r.publisher(t, "mandatory=true").PublishBatch(t.Context(), direct), 1)
	r.waits(t, dead, 1)
	note := r.subscriber(t, amqp.RegistryQueue(queue))
	require.False(t, hasQueue(t, note), "whose it is, its replica says")
}

// A master keeps queues for as long as it runs. Each call has a channel, and gives it back.
func TestAMQPKeepingLeavesNoChannels(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	var dials atomic.Int64
	few := func(queue string) *amqp.Subscriber {
		config := r.config(t, queue, "channel_max=2")
		config.Connection.AmqpConfig = &amqp091.Config{
			ChannelMax: 2,
			Dial: func(network, address string) (net.Conn, error) {
				dials.Add(1)
				return net.Dial(network, address)
			},
		}
		return subscribe(t, config)
	}
	keeper, missing := few(queue), few(unique("queue"))
	for range 30 {
		require.NoError(t, keeper.KeepQueue(t.Context(), []string{topic}))
		require.True(t, hasQueue(t, keeper))
		require.False(t, hasQueue(t, missing))
		_, err := missing.Waiting(t.Context())
		noQueue(t, err)
	}
	require.EqualValues(t, 2, dials.Load(), "each has had room on its first connection")
}

// Replicas may have made their queues by another URL, and Django services know nothing of ours.
func TestAMQPKeepsAQueueWithOtherProperties(t *testing.T) {
	t.Parallel()
	for name, arguments := range map[string]amqp091.Table{
		"quorum": {"x-queue-type": "quorum"}, "limited": {"x-max-length": int64(30)},
	} {
		t.Run(name, func(t *testing.T) {
			r, queue := newRabbit(t), unique("queue")
			topics := make([]string, 60)
			for i := range topics {
				topics[i] = unique("topic")
			}
			_, err := r.channel(t).QueueDeclare(queue, true, false, false, false, arguments)
			require.NoError(t, err)
			log, config := newLogged(r.config(t, queue, ""))
			keeper := subscribe(t, config)
			for range 2 {
				require.NoError(t, keeper.KeepQueue(t.Context(), topics))
			}
			batch := mixed(30, topics[0], transport.DirectTopic(queue, topics[30]), topics[59])
			accepted(t, r.publisher(t, "mandatory=true").PublishBatch(t.Context(), batch), 30)
			inQueue(t, keeper, 30)
			require.Equal(t, 1, log.times("has other properties"))
			require.Equal(t, 1, log.times("queue="+queue))
		})
	}
	t.Run("its dead letters", func(t *testing.T) {
		r, queue, topic := newRabbit(t), unique("queue"), unique("topic")
		keeper := r.subscriber(t, queue)
		_, err := r.channel(t).QueueDeclare(
			amqp.DeadLetterQueue(queue), true, false, false, false, amqp091.Table{"x-max-length": int64(3)})
		require.NoError(t, err)
		require.NoError(t, keeper.KeepQueue(t.Context(), []string{topic}), "it is made first")
		require.NoError(t, r.publisher(t, "mandatory=true").Publish(topic, outgoing(topic, 1)[0].Message))
	})
	t.Run("the exchange", func(t *testing.T) {
		r, queue := newRabbit(t), unique("queue")
		channel, quorum := r.channel(t), amqp091.Table{"x-queue-type": "quorum"}
		require.NoError(t, channel.ExchangeDeclare(r.exchange, "fanout", true, false, false, false, nil))
		_, err := channel.QueueDeclare(queue, true, false, false, false, quorum)
		require.NoError(t, err)
		for _, name := range []string{queue, unique("queue")} {
			err = r.subscriber(t, name).KeepQueue(t.Context(), []string{"order"})
			require.ErrorContains(t, err, "declare exchange")
			require.NotErrorIs(t, err, transport.ErrUnavailable, "trying again does not help")
		}
	})
}

// Where somebody else makes the queues, an error says what to make.
func TestAMQPKeepsNothingThatItMayNotDeclare(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	keeper := subscribe(t, r.config(t, queue, "declare=false"))
	err := keeper.KeepQueue(t.Context(), []string{topic, "customer"})
	noQueue(t, err)
	for _, want := range []string{
		queue, r.exchange, topic + " and 1 more", transport.DirectTopic(queue, topic), "declare=false",
	} {
		require.ErrorContains(t, err, want)
	}
	require.False(t, hasQueue(t, keeper))
	require.NoError(t, r.subscriber(t, queue).KeepQueue(t.Context(), []string{topic}))
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{topic}))
	inQueue(t, keeper, 0)
}

// A broker that does not answer holds nobody up for longer than the caller wants.
func TestAMQPKeepingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	behind, p := r.through(t)
	keeper := subscribe(t, behind.config(t, queue, "connection_timeout=3000"))
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{topic}))
	p.mute(true)
	for name, call := range map[string]func(context.Context) error{
		"keep":    func(ctx context.Context) error { return keeper.KeepQueue(ctx, []string{topic}) },
		"has":     func(ctx context.Context) error { _, err := keeper.HasQueue(ctx); return err },
		"waiting": func(ctx context.Context) error { _, err := keeper.Waiting(ctx); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		began := time.Now()
		err := call(ctx)
		cancel()
		require.ErrorIs(t, err, transport.ErrUnavailable, name)
		require.ErrorIs(t, err, context.DeadlineExceeded, name)
		require.Less(t, time.Since(began), 2*time.Second, name)
	}
	_, err := keeper.HasQueue(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable, "nor for longer than the connection's timeout")
	p.mute(false)
	require.Eventually(t, func() bool {
		return keeper.KeepQueue(t.Context(), []string{topic}) == nil
	}, patience, pollEvery)
}

// A master may have thousands of models. Each costs RabbitMQ some milliseconds, so here are fewer,
// and more than are declared at once.
func TestAMQPKeepsAQueueOfManyTopics(t *testing.T) {
	t.Parallel()
	r, queue := newRabbit(t), unique("queue")
	topics := make([]string, 310)
	for i := range topics {
		topics[i] = fmt.Sprintf("topic-%d", i)
	}
	keeper := r.subscriber(t, queue)
	require.NoError(t, keeper.KeepQueue(t.Context(), topics))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, keeper.KeepQueue(ctx, topics), context.Canceled)
	direct := transport.DirectTopic(queue, topics[150])
	batch := mixed(40, topics[0], topics[24], topics[25], topics[309], direct)
	accepted(t, r.publisher(t, "mandatory=true").PublishBatch(t.Context(), batch), 40)
	inQueue(t, keeper, 40)
}

// keeperPermissions are those in docs/operations.md; the exchange is "kept", the queue "stats".
func keeperPermissions(t *testing.T, node ownRabbit) {
	node.user(t, "keeper", "^(kept|(dead_letter_)?stats)$", "^(kept|(dead_letter_)?stats)$", "^kept$")
	keeper := subscribe(t, node.with(t, "keeper", "exchange=kept"))
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{"order", "bill"}))
	inQueue(t, keeper, 0)
	node.Control(t, "delete_queue", "stats")
	node.user(t, "poor", "^kept$", "^kept$", "^kept$")
	poor := subscribe(t, node.with(t, "poor", "exchange=kept"))
	err := poor.KeepQueue(t.Context(), []string{"order"})
	require.ErrorContains(t, err, "the user needs the permissions")
	require.NotErrorIs(t, err, transport.ErrUnavailable, "trying again does not help")

	inboxes := "^(kept|kept\\.cqrsync\\.master\\..*)$"
	node.user(t, "master", inboxes, inboxes, inboxes)
	node.user(t, "asks", "^$", "^kept$", "^$")
	u, err := url.Parse(node.URL())
	require.NoError(t, err)
	u.User, u.RawQuery = url.UserPassword("master", "pw"), "exchange=kept"
	config, err := amqp.NewInboxConfig(u.String())
	require.NoError(t, err)
	messages, err := subscribe(t, config).SubscribeWindow(t.Context(), "cqrsync.master.order", 3)
	require.NoError(t, err)
	batch := outgoing("cqrsync.master.order", 3)
	asks := publish(t, node.with(t, "asks", "exchange=kept&mandatory=true"))
	accepted(t, asks.PublishBatch(t.Context(), batch), 3)
	require.Equal(t, ids(batch), acked(t, messages, 3))
	require.ErrorIs(t, asks.Publish("cqrsync.master.bill", batch[0].Message), transport.ErrUnroutable)
}

// lines is a log that a test reads.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func newLogged(config amqp.Config) (*lines, amqp.Config) {
	l := &lines{}
	config.Logger = slog.New(slog.NewTextHandler(l, nil))
	return l, config
}

func (l *lines) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *lines) times(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}
