package transports_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// patience ends a test that would otherwise hang; nothing is measured by it.
const patience = 30 * time.Second

// broker makes publishers and subscribers that meet at the same broker. conform closes them.
type broker struct {
	publisher func(t testing.TB) transport.BatchPublisher
	// subscriber with queue "" has one queue per topic, called like the topic: what Watermill's suite wants.
	subscriber func(t testing.TB, queue string) transport.WindowSubscriber
	// required publishes nothing that no queue takes.
	required func(t testing.TB) transport.BatchPublisher
	inboxes  func(t testing.TB) transport.WindowSubscriber
	features tests.Features
	topics   int // of one subscription, if not 2,100
	// perTopic says that order is kept among the messages of a topic only, and not between topics.
	perTopic bool
	// countsExpired says that what has expired counts as waiting until somebody comes for it.
	countsExpired bool
}

// inOrder sees that what was published is what arrived, in the order that the broker promises.
func (b broker) inOrder(t *testing.T, published []transport.Outgoing, arrived []string) {
	t.Helper()
	if !b.perTopic {
		require.Equal(t, ids(published), arrived)
		return
	}
	require.ElementsMatch(t, ids(published), arrived)
	topicOf, want, got := map[string]string{}, map[string][]string{}, map[string][]string{}
	for _, out := range published {
		topicOf[out.Message.UUID] = out.Topic
		want[out.Topic] = append(want[out.Topic], out.Message.UUID)
	}
	for _, id := range arrived {
		got[topicOf[id]] = append(got[topicOf[id]], id)
	}
	require.Equal(t, want, got)
}

// expired returns when messages that were published just now, and may wait for so long, have
// expired: n others are left.
func (b broker) expired(t *testing.T, keeper transport.QueueKeeper, longest time.Duration, n int64) {
	t.Helper()
	if !b.countsExpired {
		inQueue(t, keeper, n)
		return
	}
	published := time.Now()
	require.Eventually(t, func() bool { return time.Since(published) > longest }, patience, time.Millisecond)
}

func (b broker) pub(t testing.TB) transport.BatchPublisher {
	t.Helper()
	pub := b.publisher(t)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

// sub also closes what Watermill's suite forgets to.
func (b broker) sub(t testing.TB, queue string) transport.WindowSubscriber {
	t.Helper()
	sub := b.subscriber(t, queue)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

// keeper looks after a queue.
func (b broker) keeper(t testing.TB, queue string) transport.QueueKeeper {
	t.Helper()
	keeper, keeps := b.sub(t, queue).(transport.QueueKeeper)
	require.True(t, keeps, "the transport can look after a queue")
	return keeper
}

// strict is required, closed with the test.
func (b broker) strict(t testing.TB) transport.BatchPublisher {
	t.Helper()
	pub := b.required(t)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func (b broker) inbox(t testing.TB) transport.WindowSubscriber {
	t.Helper()
	sub := b.inboxes(t)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func (b broker) window(t *testing.T, queue, topic string, window int) <-chan *message.Message {
	t.Helper()
	messages, err := b.sub(t, queue).SubscribeWindow(t.Context(), topic, window)
	require.NoError(t, err)
	return messages
}

// groupSubscriber gives a consumer group a queue of its own for every topic.
type groupSubscriber struct {
	group  string
	open   func(queue string) message.Subscriber
	opened []message.Subscriber
}

func (g *groupSubscriber) queue(topic string) message.Subscriber {
	g.opened = append(g.opened, g.open(g.group+"-"+topic))
	return g.opened[len(g.opened)-1]
}

func (g *groupSubscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return g.queue(topic).Subscribe(ctx, topic)
}

func (g *groupSubscriber) SubscribeInitialize(topic string) error {
	return g.queue(topic).(message.SubscribeInitializer).SubscribeInitialize(topic)
}

func (g *groupSubscriber) Close() error {
	var errs []error
	for _, sub := range g.opened {
		errs = append(errs, sub.Close())
	}
	return errors.Join(errs...)
}

func unique(prefix string) string { return prefix + "-" + watermill.NewShortUUID() }

func outgoing(topic string, n int) []transport.Outgoing {
	batch := make([]transport.Outgoing, n)
	for i := range batch {
		batch[i] = transport.Outgoing{
			Topic:   topic,
			Message: message.NewMessage(watermill.NewUUID(), fmt.Appendf(nil, "message %d", i)),
		}
	}
	return batch
}

func ids(batch []transport.Outgoing) []string {
	var all []string
	for _, out := range batch {
		all = append(all, out.Message.UUID)
	}
	return all
}

func uuids(messages []*message.Message) []string {
	var all []string
	for _, msg := range messages {
		all = append(all, msg.UUID)
	}
	return all
}

func accepted(t *testing.T, errs []error, n int) {
	t.Helper()
	require.Len(t, errs, n)
	for i, err := range errs {
		require.NoError(t, err, "message %d", i)
	}
}

func receive(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, open := <-messages:
		require.True(t, open, "the subscription ended")
		return msg
	case <-time.After(patience):
		require.FailNow(t, "no message arrived")
		return nil
	}
}

// acked receives n messages, acknowledges each and returns their ids.
func acked(t *testing.T, messages <-chan *message.Message, n int) []string {
	t.Helper()
	var got []string
	for len(got) < n {
		msg := receive(t, messages)
		got = append(got, msg.UUID)
		msg.Ack()
	}
	return got
}

// silent sees that no further message comes: long enough to catch one that was handed out already.
func silent(t *testing.T, messages <-chan *message.Message) {
	t.Helper()
	select {
	case msg, open := <-messages:
		require.False(t, open, "an unexpected message %v", msg)
	case <-time.After(100 * time.Millisecond):
	}
}

func closed(t *testing.T, messages <-chan *message.Message) {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case _, open := <-messages: // one that was on its way is not acknowledged, so it comes back
			if !open {
				return
			}
		case <-deadline:
			require.FailNow(t, "the channel stays open")
		}
	}
}

func ended(t *testing.T, msg *message.Message) {
	t.Helper()
	select {
	case <-msg.Context().Done():
	case <-time.After(patience):
		require.FailNow(t, "the message's context goes on")
	}
}

// merge reads two subscriptions as one, until the test ends.
func merge(t *testing.T, subscriptions ...<-chan *message.Message) <-chan *message.Message {
	both := make(chan *message.Message)
	var wg sync.WaitGroup
	for _, messages := range subscriptions {
		wg.Go(func() {
			for {
				select {
				case msg, open := <-messages:
					if !open {
						return
					}
					select {
					case both <- msg:
					case <-t.Context().Done():
						return
					}
				case <-t.Context().Done():
					return
				}
			}
		})
	}
	t.Cleanup(wg.Wait)
	return both
}
