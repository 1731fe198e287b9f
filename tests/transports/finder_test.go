package transports_test

import (
	"context"
	"testing"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// findsQueues: a queue is there from its first subscription on, for everybody, and asking does not
// make it.
func findsQueues(t *testing.T, b broker) {
	queue := unique("queue")
	finder, finds := b.sub(t, queue).(transport.QueueFinder)
	require.True(t, finds, "the transport can be asked")
	for range 2 {
		has, err := finder.HasQueue(t.Context())
		require.NoError(t, err)
		require.False(t, has)
	}
	b.window(t, unique("queue"), "order", 1)
	has, err := finder.HasQueue(t.Context())
	require.NoError(t, err)
	require.False(t, has, "it is another one")
	b.window(t, queue, "order", 1)
	for _, f := range []transport.QueueFinder{finder, b.sub(t, queue).(transport.QueueFinder)} {
		has, err = f.HasQueue(t.Context())
		require.NoError(t, err)
		require.True(t, has)
	}
}

func hasQueue(t testing.TB, f transport.QueueFinder) bool {
	t.Helper()
	has, err := f.HasQueue(t.Context())
	require.NoError(t, err)
	return has
}

// A queue counts whoever made it and however, and what was deleted does not.
func TestAMQPFindsQueues(t *testing.T) {
	r := newRabbit(t)
	channel := r.channel(t)
	for name, arguments := range map[string]amqp091.Table{
		"classic": nil, "quorum": {"x-queue-type": "quorum"}, "limited": {"x-max-length": int64(3)},
	} {
		queue := unique(name)
		finder := r.subscriber(t, queue)
		require.False(t, hasQueue(t, finder), name)
		_, err := channel.QueueDeclare(queue, true, false, false, false, arguments)
		require.NoError(t, err)
		require.True(t, hasQueue(t, finder), name)
		require.Equal(t, "0", string(r.fill(t, queue)), "it was not touched")
		_, err = channel.QueueDelete(queue, false, false, false)
		require.NoError(t, err)
		require.False(t, hasQueue(t, finder), "%s: the connection goes on after a no", name)
	}
	_, err := channel.QueueDeclarePassive(unique("queue"), true, false, false, false, nil)
	require.Error(t, err, "and none was made")
}

// fill puts a message into a queue, and takes it again.
func (r *rabbit) fill(t testing.TB, queue string) []byte {
	t.Helper()
	channel := r.channel(t)
	defer func() { require.NoError(t, channel.Close()) }()
	require.NoError(t, channel.Publish("", queue, true, false, amqp091.Publishing{Body: []byte("0")}))
	return r.next(t, queue).Body
}

// Whether a queue is there is unknown where the broker does not answer: that is an error, and no
// "no".
func TestAMQPDoesNotKnowQueuesOfABrokerThatIsAway(t *testing.T) {
	config, err := amqp.NewConfig("amqp://127.0.0.1:1/", "queue")
	require.NoError(t, err)
	away, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	has, err := away.HasQueue(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.False(t, has)
	require.NoError(t, away.Close())
	_, err = away.HasQueue(t.Context())
	require.ErrorContains(t, err, "closed")

	r := newRabbit(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.subscriber(t, unique("queue")).HasQueue(ctx)
	require.ErrorIs(t, err, context.Canceled)

	only := unique("exclusive")
	_, err = r.channel(t).QueueDeclare(only, false, false, true, false, nil)
	require.NoError(t, err)
	_, err = r.subscriber(t, only).HasQueue(t.Context())
	require.ErrorContains(t, err, "RESOURCE_LOCKED")
}
