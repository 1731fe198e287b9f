package transports_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/natsserver"
	"github.com/cqrsync/cqrsync/transport"
)

// natsAdmin looks at a server beside the code under test.
func natsAdmin(t testing.TB, address string) (*natsgo.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := natsgo.Connect(address)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	return nc, js
}

// A bound topic stays bound, whoever binds others to the queue meanwhile: an update of a consumer
// replaces all it is bound to.
func TestNATSQueueIsBoundByManyAtOnce(t *testing.T) {
	address := natsserver.New(t).URL()
	const masters, each = 6, 5
	queue := unique("queue")
	var topics []string
	var binding sync.WaitGroup
	errs := make(chan error, masters*each)
	for m := range masters {
		keeper := natsSubscriber(t, address, queue)
		own := make([]string, each)
		for i := range own {
			own[i] = fmt.Sprintf("topic-%d-%d", m, i)
		}
		topics = append(topics, own...)
		binding.Go(func() {
			for _, topic := range own {
				errs <- keeper.KeepQueue(t.Context(), []string{topic})
			}
		})
	}
	binding.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	var batch []transport.Outgoing
	for _, topic := range topics {
		batch = append(batch, outgoing(topic, 1)...)
		batch = append(batch, outgoing(transport.DirectTopic(queue, topic), 1)...)
	}
	accepted(t, natsPublisher(t, address).PublishBatch(t.Context(), batch), len(batch))
	inQueue(t, natsSubscriber(t, address, queue), int64(len(batch)))
}

// What a process had in its hands when it died goes to another one, and what one takes its time
// with does not.
func TestNATSMessagesOfADeadConsumerComeAgain(t *testing.T) {
	address := natsserver.New(t).URL() + "?ack_wait=1s"
	queue, topic := unique("queue"), unique("topic")
	require.NoError(t, natsSubscriber(t, address, queue).KeepQueue(t.Context(), []string{topic}))
	batch := outgoing(topic, 6)
	accepted(t, natsPublisher(t, address).PublishBatch(t.Context(), batch), 6)

	_, js := natsAdmin(t, address) // it plays the dead one: it takes, and says nothing any more
	dead, err := js.Consumer(t.Context(), "cqrs", queue)
	require.NoError(t, err)
	taken, err := dead.Fetch(3)
	require.NoError(t, err)
	n := 0
	for range taken.Messages() {
		n++
	}
	require.Equal(t, 3, n)

	messages, err := natsSubscriber(t, address, queue).SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	got := make(map[string]*message.Message)
	for range 6 {
		msg := receive(t, messages)
		require.NotContains(t, got, msg.UUID, "in work, and not handed out again")
		got[msg.UUID] = msg
	}
	for _, id := range ids(batch) {
		require.Contains(t, got, id)
	}
	other, err := natsSubscriber(t, address, queue).SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	select {
	case msg := <-other:
		require.Fail(t, "what is in work went to another one", "%v", msg.UUID)
	case msg := <-messages:
		require.Fail(t, "what is in work came again", "%v", msg.UUID)
	case <-time.After(3 * time.Second):
	}
}

// A queue that somebody else made decides itself after how long it takes messages back, and one
// that would drop them is refused.
func TestNATSQueuesThatOthersMade(t *testing.T) {
	address := natsserver.New(t).URL()
	require.NoError(t, natsSubscriber(t, address, "other").KeepQueue(t.Context(), []string{"order"}))
	_, js := natsAdmin(t, address)
	make := func(name string, config jetstream.ConsumerConfig) {
		config.Durable, config.FilterSubjects = name, []string{"cqrs.order", "cqrs.cqrs." + name + ".order"}
		_, err := js.CreateConsumer(t.Context(), "cqrs", config)
		require.NoError(t, err)
	}
	make("hasty", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, AckWait: 300 * time.Millisecond})
	make("limited", jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, MaxDeliver: 5})
	make("careless", jetstream.ConsumerConfig{AckPolicy: jetstream.AckAllPolicy})
	for _, queue := range []string{"limited", "careless"} {
		_, err := natsSubscriber(t, address, queue).Subscribe(t.Context(), "order")
		require.ErrorContains(t, err, "want explicit acks and no limit", queue)
		require.NotErrorIs(t, err, transport.ErrUnavailable)
	}
	messages, err := natsSubscriber(t, address, "hasty").SubscribeWindow(t.Context(), "order", 5)
	require.NoError(t, err)
	batch := outgoing("order", 1)
	accepted(t, natsPublisher(t, address).PublishBatch(t.Context(), batch), 1)
	held := receive(t, messages)
	other, err := natsSubscriber(t, address, "hasty").SubscribeWindow(t.Context(), "order", 5)
	require.NoError(t, err)
	select {
	case <-other:
		require.Fail(t, "what is in work went to another one")
	case <-time.After(time.Second):
	}
	held.Ack()
}

// A queue that somebody deletes is made again by who consumes it, and its other bindings by who
// looks after it.
func TestNATSQueueIsMadeAgainByItsConsumer(t *testing.T) {
	address := natsserver.New(t).URL()
	queue, topic := unique("queue"), unique("topic")
	sub := natsSubscriber(t, address, queue)
	messages, err := sub.SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	_, js := natsAdmin(t, address)
	for _, remove := range []func() error{
		func() error { return js.DeleteConsumer(t.Context(), "cqrs", queue) },
		func() error { return js.DeleteStream(t.Context(), "cqrs") },
	} {
		require.NoError(t, remove())
		require.Eventually(t, func() bool {
			has, err := sub.HasQueue(t.Context())
			return err == nil && has
		}, patience, 10*time.Millisecond)
		var batch []transport.Outgoing
		pub := natsPublisher(t, address)
		require.Eventually(t, func() bool {
			batch = outgoing(topic, 1)
			return pub.PublishBatch(t.Context(), batch)[0] == nil
		}, patience, 10*time.Millisecond)
		require.Equal(t, ids(batch), acked(t, messages, 1))
	}
}

// Dead letters keep their places however often they are looked at, go where they are sent, and are not
// taken for repetitions.
func TestNATSDeadLetters(t *testing.T) {
	address := natsserver.New(t).URL()
	queue := unique("queue")
	sub := natsSubscriber(t, address, queue)
	dead := sub.DeadLetterQueue()
	err := sub.EachDeadLetter(t.Context(), dead, func(transport.DeadLetter) (bool, error) { return true, nil })
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	_, err = sub.PurgeDeadLetters(t.Context(), dead)
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	pub := natsPublisher(t, address)
	bury := func(id, body string) {
		require.NoError(t, pub.Publish(transport.DirectTopic(dead, "order"),
			message.NewMessage(id, []byte(body))))
	}
	for i := range 5 {
		bury(fmt.Sprint(i), fmt.Sprint(i))
	}
	for _, limit := range []int{3, 100, 1, 5} {
		require.Equal(t, []string{"0", "1", "2", "3", "4"}[:min(limit, 5)], look(t, sub, dead, limit))
	}
	visited := 0
	require.NoError(t, sub.EachDeadLetter(t.Context(), dead, func(l transport.DeadLetter) (bool, error) {
		visited++
		switch string(l.Message.Payload) {
		case "1":
			require.NoError(t, l.Remove())
		case "2":
			require.ErrorIs(t, l.SendAgain("customer", l.Message), transport.ErrUnroutable)
		case "3":
			require.NoError(t, l.SendAgain(transport.DirectTopic(queue, "order"), l.Message))
			again := receive(t, messages)
			require.Equal(t, "3", string(again.Payload))
			require.Equal(t, "true", again.Metadata[transport.DirectKey])
			again.Ack()
			bury("3", "3 failed again") // while letters are visited, for the next time
		}
		return true, nil
	}))
	require.Equal(t, 5, visited)
	require.Equal(t, []string{"0", "2", "4", "3 failed again"}, look(t, sub, dead, 100))
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, sub.EachDeadLetter(ctx, dead, func(transport.DeadLetter) (bool, error) {
		cancel()
		return true, nil
	}), context.Canceled)
	require.ErrorContains(t, sub.EachDeadLetter(t.Context(), queue,
		func(transport.DeadLetter) (bool, error) { return true, nil }), "want a queue of dead letters")
	purged, err := sub.PurgeDeadLetters(t.Context(), dead)
	require.NoError(t, err)
	require.Equal(t, 4, purged)
	require.Empty(t, look(t, sub, dead, 100))
	inQueue(t, natsSubscriber(t, address, dead), 0)
}

// Names that a server has no room for are told apart and arrive.
func TestNATSNames(t *testing.T) {
	address := natsserver.New(t).URL()
	topics := []string{"a b", "a*", "a.>", "a..b", ".a", "a.", "ü", "a%20b", "a\tb", "order"}
	queue := "kü chen.*/>"
	s, err := natsSubscriber(t, address, queue).SubscribeBatch(t.Context(), topics, 100)
	require.NoError(t, err)
	var batch []transport.Outgoing
	for _, topic := range topics {
		batch = append(batch, outgoing(topic, 1)...)
		batch = append(batch, outgoing(transport.DirectTopic(queue, topic), 1)...)
	}
	odd := " key:\r\n"
	metadata := map[string]string{
		"": "empty", odd: " \tvalue\r\nNats-TTL: 1s ", "Nats-Rollup": "all", "nats-msg-id": "x",
		"_watermill_message_uuid": "mine", "Ä": "ö % %41", "long": string(slices.Repeat([]byte("x"), 5000)),
	}
	for i := range batch {
		for key, value := range metadata {
			batch[i].Message.Metadata.Set(key, value)
		}
	}
	accepted(t, natsPublisher(t, address).PublishBatch(t.Context(), batch), len(batch))
	for i := range batch {
		msg := receive(t, s.Messages)
		require.Equal(t, batch[i].Message.UUID, msg.UUID)
		require.Equal(t, i%2 == 1, msg.Metadata[transport.DirectKey] != "")
		delete(msg.Metadata, transport.DirectKey)
		require.Equal(t, metadata, map[string]string(msg.Metadata))
		s.Settle([]*message.Message{msg}, nil)
	}
	_, err = natsSubscriber(t, address, "q").SubscribeWindow(t.Context(), "", 1)
	require.ErrorContains(t, err, "the topic is empty")
}
