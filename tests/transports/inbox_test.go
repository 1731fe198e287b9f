package transports_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
	"github.com/cqrsync/cqrsync/transport/open"
)

// inboxOfATopic: consumers of one topic compete for its inbox, which nothing else reaches.
func inboxOfATopic(t *testing.T, b broker) {
	orders, customers := unique("cqrsync.master.order"), unique("cqrsync.master.customer")
	strict := b.strict(t)
	for _, err := range strict.PublishBatch(t.Context(), outgoing(orders, 2)) {
		require.ErrorIs(t, err, transport.ErrUnroutable, "nobody answers")
	}
	first := b.inbox(t)
	require.NoError(t, first.(message.SubscribeInitializer).SubscribeInitialize(orders))
	waiting := outgoing(orders, 2)
	accepted(t, strict.PublishBatch(t.Context(), waiting), 2)
	require.True(t, hasQueue(t, b.keeper(t, first.(transport.BatchSubscriber).Queue(orders))))
	toOrders, err := first.SubscribeWindow(t.Context(), orders, 10)
	require.NoError(t, err)
	toCustomers, err := first.SubscribeWindow(t.Context(), customers, 10)
	require.NoError(t, err)
	require.Equal(t, ids(waiting), acked(t, toOrders, 2))

	for _, topic := range []string{orders, customers} {
		direct := outgoing(transport.DirectTopic(orders, topic), 1)
		for _, err := range strict.PublishBatch(t.Context(), direct) {
			require.ErrorIs(t, err, transport.ErrUnroutable)
		}
	}
	batch := outgoing(customers, 3)
	accepted(t, strict.PublishBatch(t.Context(), batch), 3)
	require.Equal(t, ids(batch), acked(t, toCustomers, 3))
	silent(t, toOrders)

	second, err := b.inbox(t).SubscribeWindow(t.Context(), orders, 1)
	require.NoError(t, err)
	batch = outgoing(orders, 100)
	accepted(t, strict.PublishBatch(t.Context(), batch), 100)
	both := merge(t, toOrders, second)
	require.ElementsMatch(t, ids(batch), acked(t, both, 100))
	silent(t, both)
}

// inboxIsBounded: the oldest make room.
func inboxIsBounded(t *testing.T, b broker) {
	const most, size = 10_000, 500
	topic := unique("cqrsync.master.order")
	inbox, strict := b.inbox(t), b.strict(t)
	require.NoError(t, inbox.(message.SubscribeInitializer).SubscribeInitialize(topic))
	var sent []string
	for len(sent) < most+size {
		batch := outgoing(topic, size)
		sent = append(sent, ids(batch)...)
		accepted(t, strict.PublishBatch(t.Context(), batch), size)
	}
	keeper := b.keeper(t, inbox.(transport.BatchSubscriber).Queue(topic))
	inQueue(t, keeper, most)
	messages, err := inbox.SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	require.Equal(t, sent[size:size+20], acked(t, messages, 20))

	// Another queue of the same number has all of them.
	queue, other := unique("queue"), unique("topic")
	require.NoError(t, b.keeper(t, queue).KeepQueue(t.Context(), []string{other}))
	accepted(t, strict.PublishBatch(t.Context(), outgoing(other, most+1)), most+1)
	inQueue(t, b.keeper(t, queue), most+1)
}

// requiresQueue: who has to know that nobody listens is told, message by message.
func requiresQueue(t *testing.T, b broker) {
	queue, topic, nobody := unique("queue"), unique("topic"), unique("topic")
	messages := b.window(t, queue, topic, 10)
	batch := outgoing(topic, 5)
	batch[1].Topic = nobody
	batch[2].Topic = transport.DirectTopic(queue, topic)
	batch[3].Topic = transport.DirectTopic(unique("queue"), topic)
	strict := b.strict(t)
	for i, err := range strict.PublishBatch(t.Context(), batch) {
		if i == 1 || i == 3 {
			require.ErrorIs(t, err, transport.ErrUnroutable)
			require.True(t, transport.AtDestination(err))
			require.ErrorContains(t, err, batch[i].Topic)
			continue
		}
		require.NoError(t, err)
	}
	require.ErrorIs(t, strict.Publish(nobody, batch[1].Message), transport.ErrUnroutable)
	b.inOrder(t, []transport.Outgoing{batch[0], batch[2], batch[4]}, acked(t, messages, 3))

	accepted(t, b.pub(t).PublishBatch(t.Context(), outgoing(nobody, 2)), 2)
	late := b.window(t, unique("queue"), nobody, 1)
	batch = outgoing(nobody, 1)
	accepted(t, strict.PublishBatch(t.Context(), batch), 1)
	require.Equal(t, ids(batch), acked(t, late, 1))
}

// All relays of a master declare the same inbox, whatever their URLs say of replicas' queues.
func TestAMQPInboxHasLimitsAndNoDeadLetters(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("cqrsync.master.order")
	for _, options := range []string{"", "queue_type=quorum"} {
		require.NoError(t, r.inbox(t, options).SubscribeInitialize(topic))
	}
	limits := amqp091.Table{
		"x-message-ttl": int64(600_000), "x-max-length": int64(10_000), "x-expires": int64(86_400_000),
	}
	_, err := r.channel(t).QueueDeclare(topic, true, false, false, false, limits)
	require.NoError(t, err)
	for name := range limits {
		other := amqp091.Table{}
		for key, value := range limits {
			if key != name {
				other[key] = value
			}
		}
		_, err := r.channel(t).QueueDeclare(topic, true, false, false, false, other)
		require.ErrorContains(t, err, name)
	}
	dead := r.subscriber(t, amqp.DeadLetterQueue(topic))
	require.False(t, hasQueue(t, dead))
	registered, err := r.inbox(t, "").Register(t.Context(), "a")
	require.NoError(t, err)
	require.Empty(t, registered)
	require.False(t, hasQueue(t, r.subscriber(t, amqp.RegistryQueue(topic))))
}

// A replica's URL need not say mandatory for it to know that nobody answers.
func TestAMQPInboxByURL(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("cqrsync.master.order")
	for _, options := range []string{"", "mandatory=false"} {
		rawURL := r.url(t, options)
		topic := topic + options
		r.queues[topic] = true
		inbox, err := open.Inbox(rawURL, open.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, inbox.Close()) }()
		asks, err := open.Publisher(rawURL, open.Options{RequireQueue: true})
		require.NoError(t, err)
		defer func() { require.NoError(t, asks.Close()) }()
		tells, err := open.Publisher(rawURL, open.Options{})
		require.NoError(t, err)
		defer func() { require.NoError(t, tells.Close()) }()
		require.ErrorIs(t, asks.PublishBatch(t.Context(), outgoing(topic, 1))[0], transport.ErrUnroutable)
		accepted(t, tells.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
		messages, err := inbox.SubscribeWindow(t.Context(), topic, 1)
		require.NoError(t, err)
		batch := outgoing(topic, 1)
		accepted(t, asks.PublishBatch(t.Context(), batch), 1)
		require.Equal(t, ids(batch), acked(t, messages, 1))
	}
}

// An inbox that was deleted under its consumer is there again soon.
func TestAMQPInboxComesBack(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("cqrsync.master.order")
	messages, err := r.inbox(t, "").SubscribeWindow(t.Context(), topic, 1)
	require.NoError(t, err)
	_, err = r.channel(t).QueueDelete(topic, false, false, false)
	require.NoError(t, err)
	pub, batch := r.publisher(t, "mandatory=true"), outgoing(topic, 1)
	require.Eventually(t, func() bool {
		return pub.PublishBatch(t.Context(), batch)[0] == nil
	}, patience, pollEvery)
	require.Equal(t, ids(batch), acked(t, messages, 1))
}
