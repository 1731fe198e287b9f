// Package transports_test holds every transport to the same promises: Watermill's own suite, and those of package
// transport. A transport's test builds a broker and calls conform.
package transports_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// conform runs both suites. They share the broker: every test has topics and queues of its own.
func conform(t *testing.T, b broker) {
	t.Run("Watermill", func(t *testing.T) {
		tests.TestPubSub(t, b.features,
			func(t *testing.T) (message.Publisher, message.Subscriber) { return b.pub(t), b.sub(t, "") },
			func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
				// A consumer group is a queue for each group and topic.
				return b.pub(t), &groupSubscriber{group: group, open: func(q string) message.Subscriber { return b.sub(t, q) }}
			})
	})
	for name, test := range map[string]func(*testing.T, broker){
		"a message arrives as it was":                             arrivesAsItWas,
		"a batch reports every message and keeps its order":       batchKeepsOrder,
		"a batch whose context ended reports unavailable":         batchWithEndedContext,
		"after a deadline nothing is sent, and nothing confirmed": batchAfterItsDeadline,
		"a broadcast reaches every queue, a direct message one":   broadcastAndDirect,
		"a queue takes several topics":                            severalTopics,
		"one subscription takes any number of topics":             manyTopics,
		"one subscription takes topics of one queue only":         topicsOfOneQueue,
		"subscribers of one queue compete":                        subscribersCompete,
		"messages wait for a subscriber":                          messagesWait,
		"a window bounds the unacknowledged messages":             windowBounds,
		"acks may come out of order":                              acksOutOfOrder,
		"a nacked message comes again, before later ones":         nackRedelivers,
		"the end of the context returns unacknowledged messages":  contextEndReturns,
		"a closed end says so, however often it is closed":        closedTwice,
		"publishers do not disturb each other":                    concurrentPublishers,
		"a database is noted with its queue":                      registersDatabase,
		"two databases behind one queue find each other":          registersAtOnce,
		"a queue is found from its first subscription on":         findsQueues,
		"a queue is kept without being consumed":                  keepsQueue,
		"a queue is kept beside its consumers":                    keepsConsumedQueue,
		"a queue of many topics is kept":                          keepsManyTopics,
		"a queue is kept by several at once":                      keepsAtOnce,
		"what has no queue to keep says so":                       keepsNothing,
		"a message that has expired is not handed out":            expires,
		"an expiration that is no number is refused":              refusesExpirations,
		"an inbox has the messages of its topic alone":            inboxOfATopic,
		"an inbox has room for so many messages":                  inboxIsBounded,
		"a publisher may require a queue":                         requiresQueue,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, b)
		})
	}
}

func arrivesAsItWas(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	messages := b.window(t, queue, topic, 3)
	payload := message.Payload("\x00\xff{\"name\":\"Ǻ 日本\"}")
	sent := message.NewMessage(watermill.NewUUID(), slices.Clone(payload))
	sent.Metadata.Set("cqrs_key", "[1,\"Ǻ\"]")
	sent.Metadata.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	bare := message.NewMessage(watermill.NewUUID(), nil)
	bare.Metadata = nil
	require.NoError(t, b.pub(t).Publish(topic, sent, bare))
	sent.Payload[0] = '!' // what was published is out of reach

	got := receive(t, messages)
	require.Equal(t, sent.UUID, got.UUID)
	require.Equal(t, payload, got.Payload)
	for key, value := range sent.Metadata {
		require.Equal(t, value, got.Metadata.Get(key), key)
	}
	got = receive(t, messages)
	require.Equal(t, bare.UUID, got.UUID)
	require.Empty(t, got.Payload)
	require.NotNil(t, got.Metadata, "a handler may add to it")
}

func batchKeepsOrder(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	const n = 300
	messages := b.window(t, queue, topic, n)
	batch := outgoing(topic, n)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), n)
	require.Equal(t, ids(batch), acked(t, messages, n))
	require.Empty(t, b.pub(t).PublishBatch(t.Context(), nil))
}

// A relay spends no attempt on a message that failed with ErrUnavailable; any other error would count against it.
func batchWithEndedContext(t *testing.T, b broker) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	errs := b.pub(t).PublishBatch(ctx, outgoing(unique("topic"), 3))
	require.Len(t, errs, 3)
	for _, err := range errs {
		require.ErrorIs(t, err, transport.ErrUnavailable)
	}
}

// late is a context whose deadline has passed without a timer telling anybody, as in a process that was stopped.
type late struct{ context.Context }

func (late) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// A relay removes what was confirmed, so what was not sent must not look like it.
func batchAfterItsDeadline(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	messages := b.window(t, queue, topic, 10)
	pub := b.pub(t)
	first, last := outgoing(topic, 1), outgoing(topic, 1)
	accepted(t, pub.PublishBatch(t.Context(), first), 1)
	for _, err := range pub.PublishBatch(late{t.Context()}, outgoing(topic, 3)) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
	accepted(t, pub.PublishBatch(t.Context(), last), 1)
	require.Equal(t, append(ids(first), ids(last)...), acked(t, messages, 2))
	silent(t, messages)
}

func broadcastAndDirect(t *testing.T, b broker) {
	one, two, topic := unique("queue"), unique("queue"), unique("topic")
	toOne, toTwo := b.window(t, one, topic, 10), b.window(t, two, topic, 10)
	batch := outgoing(topic, 3)
	batch[1].Topic = transport.DirectTopic(two, topic)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 3)
	require.Equal(t, []string{batch[0].Message.UUID, batch[2].Message.UUID}, acked(t, toOne, 2))
	b.inOrder(t, batch, acked(t, toTwo, 3))
	silent(t, toOne)
}

func severalTopics(t *testing.T, b broker) {
	queue, orders, customers := unique("queue"), unique("topic"), unique("topic")
	sub := b.sub(t, queue)
	// Both subscriptions read the one queue, so either may get either topic.
	first, err := sub.SubscribeWindow(t.Context(), orders, 10)
	require.NoError(t, err)
	second, err := sub.SubscribeWindow(t.Context(), customers, 10)
	require.NoError(t, err)
	batch := slices.Concat(outgoing(orders, 10), outgoing(customers, 10))
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 20)
	require.ElementsMatch(t, ids(batch), acked(t, merge(t, first, second), 20))
}

func subscribersCompete(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	const n = 300
	both := merge(t, b.window(t, queue, topic, 10), b.window(t, queue, topic, 1))
	batch := outgoing(topic, n)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), n)
	require.ElementsMatch(t, ids(batch), acked(t, both, n))
	silent(t, both)
}

func messagesWait(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	sub, ok := b.sub(t, queue).(message.SubscribeInitializer)
	require.True(t, ok, "the transport can create a queue before anybody reads it")
	require.NoError(t, sub.SubscribeInitialize(topic))
	require.NoError(t, sub.SubscribeInitialize(topic), "creating it again changes nothing")
	batch := outgoing(topic, 20)
	batch[7].Topic = transport.DirectTopic(queue, topic)
	pub := b.pub(t)
	accepted(t, pub.PublishBatch(t.Context(), batch), 20)
	require.NoError(t, pub.Close())
	b.inOrder(t, batch, acked(t, b.window(t, queue, topic, 5), 20))
}

func windowBounds(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	messages := b.window(t, queue, topic, 3)
	batch := outgoing(topic, 5)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 5)
	var held []*message.Message
	for range 3 {
		held = append(held, receive(t, messages))
	}
	require.Equal(t, ids(batch[:3]), uuids(held))
	silent(t, messages)
	held[1].Ack()
	require.Equal(t, batch[3].Message.UUID, receive(t, messages).UUID)
	silent(t, messages)

	_, err := b.sub(t, queue).SubscribeWindow(t.Context(), topic, 0)
	require.Error(t, err, "a window of nothing")
}

func acksOutOfOrder(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	messages, err := b.sub(t, queue).SubscribeWindow(ctx, topic, 4)
	require.NoError(t, err)
	batch := outgoing(topic, 4)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 4)
	var held []*message.Message
	for range 4 {
		held = append(held, receive(t, messages))
	}
	held[3].Ack()
	held[1].Ack()
	cancel() // an ack given before the end counts, or every deployment would deliver a window twice
	closed(t, messages)
	again := b.window(t, queue, topic, 4)
	require.ElementsMatch(t, []string{batch[0].Message.UUID, batch[2].Message.UUID}, acked(t, again, 2))
	silent(t, again)
}

func nackRedelivers(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	messages, err := b.sub(t, queue).Subscribe(t.Context(), topic)
	require.NoError(t, err)
	batch := outgoing(topic, 3)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 3)
	for range 3 {
		msg := receive(t, messages)
		require.Equal(t, batch[0].Message.UUID, msg.UUID)
		msg.Payload[0] = '!' // what a handler does to its copy is its own affair
		require.True(t, msg.Nack())
		ended(t, msg)
	}
	msg := receive(t, messages)
	require.Equal(t, batch[0].Message.Payload, msg.Payload)
	msg.Ack()
	ended(t, msg)
	require.Equal(t, ids(batch[1:]), acked(t, messages, 2))
}

func contextEndReturns(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "value"))
	defer cancel()
	messages, err := b.sub(t, queue).SubscribeWindow(ctx, topic, 3)
	require.NoError(t, err)
	batch := outgoing(topic, 10)
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 10)
	msg := receive(t, messages)
	require.Equal(t, "value", msg.Context().Value(key{}))
	cancel()
	ended(t, msg)
	closed(t, messages)

	sub := b.sub(t, queue)
	messages, err = sub.SubscribeWindow(t.Context(), topic, 3)
	require.NoError(t, err)
	receive(t, messages)
	require.NoError(t, sub.Close())
	closed(t, messages)

	require.ElementsMatch(t, ids(batch), acked(t, b.window(t, queue, topic, 3), 10))
}

func closedTwice(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	pub, sub := b.pub(t), b.sub(t, queue)
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, pub.Close())
		require.NoError(t, sub.Close())
	}
	closed(t, messages)
	require.Error(t, pub.Publish(topic, outgoing(topic, 1)[0].Message))
	errs := pub.PublishBatch(t.Context(), outgoing(topic, 2))
	require.Len(t, errs, 2)
	require.Error(t, errors.Join(errs...))
	_, err = sub.Subscribe(t.Context(), topic)
	require.Error(t, err)

	unused, never := b.pub(t), b.sub(t, queue)
	require.NoError(t, unused.Close())
	require.NoError(t, never.Close())
}

func concurrentPublishers(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	const publishers, calls, size = 8, 5, 20
	messages := b.window(t, queue, topic, 50)
	shared := b.pub(t)
	batches := make([][]transport.Outgoing, publishers*calls)
	for i := range batches {
		batches[i] = outgoing(topic, size)
	}
	var wg sync.WaitGroup
	failed := make(chan error, len(batches)*size)
	for p := range publishers {
		pub := shared
		if p%2 == 0 {
			pub = b.pub(t)
		}
		wg.Go(func() {
			for _, batch := range batches[p*calls : (p+1)*calls] {
				for _, err := range pub.PublishBatch(t.Context(), batch) {
					failed <- err
				}
			}
		})
	}
	got := acked(t, messages, publishers*calls*size)
	wg.Wait()
	close(failed)
	for err := range failed {
		require.NoError(t, err)
	}
	position := map[string]int{}
	for i, id := range got {
		position[id] = i
	}
	require.Len(t, position, publishers*calls*size, "each message once")
	for _, batch := range batches {
		require.IsIncreasing(t, func() (order []int) {
			for _, id := range ids(batch) {
				order = append(order, position[id])
			}
			return order
		}(), "order within a call")
	}
}

// manyTopics are as many as RabbitMQ has channels for on a connection, or fewer where it has room for one only: each costs
// it some milliseconds, once.
func manyTopics(t *testing.T, b broker) {
	queue, prefix := unique("queue"), unique("topic")
	topics := make([]string, cmp.Or(b.topics, 2_100))
	for i := range topics {
		topics[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	sub, ok := b.sub(t, queue).(transport.BatchSubscriber)
	require.True(t, ok, "the transport can take many topics at once")
	s, err := sub.SubscribeBatch(t.Context(), topics, 10)
	require.NoError(t, err)
	batch := outgoing("", 2*21)
	for i := range batch {
		batch[i].Topic = topics[i/2*(len(topics)-1)/20]
		if i%2 == 1 {
			batch[i].Topic = transport.DirectTopic(queue, batch[i].Topic)
		}
	}
	accepted(t, b.pub(t).PublishBatch(t.Context(), batch), len(batch))
	got := make([]string, len(batch))
	for i := range got {
		msg := receive(t, s.Messages)
		got[i] = msg.UUID
		s.Settle([]*message.Message{msg}, nil)
	}
	b.inOrder(t, batch, got)
}

func topicsOfOneQueue(t *testing.T, b broker) {
	sub, ok := b.sub(t, "").(transport.BatchSubscriber)
	require.True(t, ok)
	first, second := unique("topic"), unique("topic")
	require.Equal(t, first, sub.Queue(first))
	_, err := sub.SubscribeBatch(t.Context(), []string{first, second}, 10)
	require.ErrorContains(t, err, "want one")
	require.NotErrorIs(t, err, transport.ErrUnavailable)
	_, err = sub.SubscribeBatch(t.Context(), nil, 10)
	require.ErrorContains(t, err, "at least one topic")
}
