package transports_test

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// inQueue returns when so many messages of a queue are in nobody's hands.
func inQueue(t testing.TB, keeper transport.QueueKeeper, count int64) {
	t.Helper()
	var n int64
	require.Eventually(t, func() bool {
		var err error
		n, err = keeper.Waiting(t.Context())
		require.NoError(t, err)
		return n == count
	}, patience, 5*time.Millisecond, "want %d, the last number is below", count)
	require.Equal(t, count, n)
}

func noQueue(t testing.TB, err error) {
	t.Helper()
	require.ErrorIs(t, err, transport.ErrNoQueue)
	require.NotErrorIs(t, err, transport.ErrUnavailable, "trying again does not help")
}

// keepsQueue: what is published between KeepQueue and the first subscription waits for that.
func keepsQueue(t *testing.T, b broker) {
	queue, orders, customers := unique("queue"), unique("topic"), unique("topic")
	keeper := b.keeper(t, queue)
	_, err := keeper.Waiting(t.Context())
	noQueue(t, err)
	noQueue(t, keeper.BindQueue(t.Context(), []string{orders}))
	require.False(t, hasQueue(t, keeper), "none is made to be bound")
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{orders}))
	require.NoError(t, keeper.BindQueue(t.Context(), []string{orders, customers}))
	require.True(t, hasQueue(t, keeper))
	inQueue(t, keeper, 0)

	batch := outgoing(orders, 4)
	batch[1].Topic = customers
	batch[2].Topic = transport.DirectTopic(queue, orders)
	batch[3].Topic = transport.DirectTopic(queue, customers)
	accepted(t, b.strict(t).PublishBatch(t.Context(), batch), 4)
	inQueue(t, keeper, 4)
	further := unique("topic")
	for _, again := range []transport.QueueKeeper{keeper, b.keeper(t, queue)} {
		require.NoError(t, again.KeepQueue(t.Context(), []string{orders, customers}))
		require.NoError(t, again.KeepQueue(t.Context(), []string{customers, further, further}))
		inQueue(t, again, 4)
	}
	last := outgoing(further, 1)
	accepted(t, b.strict(t).PublishBatch(t.Context(), last), 1)
	b.inOrder(t, append(batch, last...), acked(t, b.window(t, queue, orders, 5), 5))
	inQueue(t, keeper, 0)
}

// keepsConsumedQueue: a consumer notices nothing, and what it has in its hands does not wait.
func keepsConsumedQueue(t *testing.T, b broker) {
	queue, orders, customers := unique("queue"), unique("topic"), unique("topic")
	messages := b.window(t, queue, orders, 2)
	keeper := b.keeper(t, queue)
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{orders}))
	batch := outgoing(orders, 5)
	accepted(t, b.strict(t).PublishBatch(t.Context(), batch), 5)
	held := []*message.Message{receive(t, messages), receive(t, messages)}
	inQueue(t, keeper, 3)
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{orders, customers}))
	inQueue(t, keeper, 3)
	held[0].Ack()
	held[1].Ack()
	require.Equal(t, ids(batch[:2]), uuids(held))
	require.Equal(t, ids(batch[2:]), acked(t, messages, 3))
	last := outgoing(customers, 1)
	accepted(t, b.strict(t).PublishBatch(t.Context(), last), 1)
	require.Equal(t, ids(last), acked(t, messages, 1), "it was bound to one more topic")
}

func keepsManyTopics(t *testing.T, b broker) {
	queue, prefix := unique("queue"), unique("topic")
	topics := make([]string, cmp.Or(b.topics, 2_100))
	for i := range topics {
		topics[i] = fmt.Sprintf("%s-%d", prefix, i)
	}
	keeper := b.keeper(t, queue)
	for range 2 {
		require.NoError(t, keeper.KeepQueue(t.Context(), topics))
	}
	batch := outgoing("", 2*len(topics))
	for i := range batch {
		batch[i].Topic = topics[i/2]
		if i%2 == 1 {
			batch[i].Topic = transport.DirectTopic(queue, topics[i/2])
		}
	}
	accepted(t, b.strict(t).PublishBatch(t.Context(), batch), len(batch))
	inQueue(t, keeper, int64(len(batch)))
}

// keepsAtOnce: several relays of a master, and the replica itself, make one queue at the same time.
func keepsAtOnce(t *testing.T, b broker) {
	queue, topics := unique("queue"), []string{unique("topic"), unique("topic"), unique("topic")}
	shared := b.keeper(t, queue)
	var calls sync.WaitGroup
	errs := make(chan error, 100)
	for i := range 6 {
		keeper := shared
		if i%2 == 0 {
			keeper = b.keeper(t, queue)
		}
		calls.Go(func() {
			for range 4 {
				errs <- keeper.KeepQueue(t.Context(), topics)
				_, err := keeper.Waiting(t.Context())
				errs <- err
			}
		})
	}
	messages := b.window(t, queue, topics[0], 10)
	calls.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	batch := outgoing(topics[2], 3)
	accepted(t, b.strict(t).PublishBatch(t.Context(), batch), 3)
	require.Equal(t, ids(batch), acked(t, messages, 3))
}

func keepsNothing(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	perTopic := b.keeper(t, "")
	_, hasErr := perTopic.HasQueue(t.Context())
	_, waitingErr := perTopic.Waiting(t.Context())
	for _, err := range []error{hasErr, waitingErr, perTopic.KeepQueue(t.Context(), []string{topic})} {
		require.ErrorContains(t, err, "open it for a named queue")
		require.NotErrorIs(t, err, transport.ErrUnavailable)
	}
	keeper := b.keeper(t, queue)
	err := keeper.KeepQueue(t.Context(), nil)
	require.ErrorContains(t, err, "at least one topic")
	require.NotErrorIs(t, err, transport.ErrUnavailable)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, hasErr = keeper.HasQueue(ctx)
	_, waitingErr = keeper.Waiting(ctx)
	for _, err := range []error{hasErr, waitingErr, keeper.KeepQueue(ctx, []string{topic})} {
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorIs(t, err, context.Canceled)
	}
	require.False(t, hasQueue(t, keeper), "nothing was made")

	sub := b.subscriber(t, queue)
	require.NoError(t, sub.Close())
	over := sub.(transport.QueueKeeper)
	_, hasErr = over.HasQueue(t.Context())
	_, waitingErr = over.Waiting(t.Context())
	for _, err := range []error{hasErr, waitingErr, over.KeepQueue(t.Context(), []string{topic})} {
		require.ErrorContains(t, err, "closed")
	}
}
