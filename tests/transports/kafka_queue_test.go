package transports_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/cqrsync/cqrsync/transport"
)

// keyed are messages of so many keys in turn.
func keyed(topic string, n, keys int) []transport.Outgoing {
	batch := outgoing(topic, n)
	for i := range batch {
		batch[i].Message.Metadata.Set("cqrs_key", fmt.Sprint(i%keys))
	}
	return batch
}

// Who takes his time is not thrown out, however long it takes: he says that he lives while he
// works.
func TestKafkaConsumerThatIsSlow(t *testing.T) { slowConsumer(t, newKafka(t)) }

func slowConsumer(t *testing.T, k *kafkaPlace) {
	queue, topic := unique("queue"), unique("topic")
	messages, err := k.subscriber(t, queue, "lease=1s").SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	batch := outgoing(topic, 6)
	accepted(t, k.publisher(t, "").PublishBatch(t.Context(), batch), 6)
	var held []*message.Message
	for range 6 {
		held = append(held, receive(t, messages))
	}
	select {
	case msg := <-messages:
		require.Fail(t, "what is in work came again", "%v", msg.UUID)
	case <-time.After(3 * time.Second): // three leases
	}
	require.Len(t, k.members(t, queue), 1)
	for _, msg := range held {
		msg.Ack()
	}
	inQueue(t, k.subscriber(t, queue, ""), 0)
	more := outgoing(topic, 1)
	accepted(t, k.publisher(t, "").PublishBatch(t.Context(), more), 1)
	require.Equal(t, ids(more), acked(t, messages, 1))
}

func (k *kafkaPlace) members(t testing.TB, queue string) []kadm.DescribedGroupMember {
	t.Helper()
	groups, err := k.admin.DescribeGroups(t.Context(), k.prefix+"."+queue)
	require.NoError(t, err)
	return groups[k.prefix+"."+queue].Members
}

// When another process comes, it gets partitions that nobody has in hands: what is being worked on
// is not begun a second time.
func TestKafkaConsumersThatComeAndGo(t *testing.T) { consumersComeAndGo(t, newKafka(t)) }

func consumersComeAndGo(t *testing.T, k *kafkaPlace) {
	queue, topic := unique("queue"), unique("topic")
	const n, keys = 400, 40
	first, err := k.subscriber(t, queue, "").SubscribeWindow(t.Context(), topic, 50)
	require.NoError(t, err)
	batch := keyed(topic, n, keys)
	pub := k.publisher(t, "")
	accepted(t, pub.PublishBatch(t.Context(), batch[:n/2]), n/2)
	held := []*message.Message{receive(t, first)} // it has partitions
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	second, err := k.subscriber(t, queue, "").SubscribeWindow(ctx, topic, 50)
	require.NoError(t, err)
	accepted(t, pub.PublishBatch(t.Context(), batch[n/2:]), n/2)
	got := map[string]int{}
	for len(got) < n-1 {
		select {
		case msg := <-first:
			got[msg.UUID]++
			msg.Ack()
		case msg := <-second:
			got[msg.UUID]++
			msg.Ack()
			if held != nil {
				held[0].Ack()
				got[held[0].UUID]++
				held = nil
			}
		case <-time.After(patience):
			require.FailNow(t, "no message arrived")
		}
		if held != nil && len(got) == n/2 {
			held[0].Ack()
			got[held[0].UUID]++
			held = nil
		}
	}
	leave()
	closed(t, second)
	last := keyed(topic, 40, keys)
	accepted(t, pub.PublishBatch(t.Context(), last), 40)
	for len(got) < n+40 {
		msg := receive(t, first)
		got[msg.UUID]++
		msg.Ack()
	}
	for _, out := range slices.Concat(batch, last) {
		require.Equal(t, 1, got[out.Message.UUID], "each once")
	}
}

// What a process had in its hands when it died comes again, and what it had acknowledged does not.
func TestKafkaMessagesOfADeadConsumerComeAgain(t *testing.T) { consumerDies(t, newKafka(t)) }

func consumerDies(t *testing.T, k *kafkaPlace) {
	queue, topic := unique("queue"), unique("topic")
	ctx, cancel := context.WithCancel(t.Context())
	messages, err := k.subscriber(t, queue, "").SubscribeWindow(ctx, topic, 10)
	require.NoError(t, err)
	batch := outgoing(topic, 8)
	accepted(t, k.publisher(t, "").PublishBatch(t.Context(), batch), 8)
	var held []*message.Message
	for range 8 {
		held = append(held, receive(t, messages))
	}
	for _, i := range []int{0, 2, 3, 6} {
		held[i].Ack()
	}
	keeper := k.subscriber(t, queue, "")
	committed := func() string {
		found, err := k.admin.FetchOffsets(t.Context(), k.prefix+"."+queue)
		require.NoError(t, err)
		for _, o := range found.Sorted() {
			if o.Metadata != "" {
				return fmt.Sprint(o.At, " ", o.Metadata)
			}
		}
		return ""
	}
	require.Eventually(t, func() bool { return committed() == "1 4;1-3;5-6" }, patience, 5*time.Millisecond,
		"the offset stands before what is not acknowledged, and what is behind that is named")
	inQueue(t, keeper, 0)
	cancel()
	closed(t, messages)
	want := []string{batch[1].Message.UUID, batch[4].Message.UUID, batch[5].Message.UUID, batch[7].Message.UUID}
	inQueue(t, keeper, 4)
	again, err := k.subscriber(t, queue, "").SubscribeWindow(t.Context(), topic, 10)
	require.NoError(t, err)
	require.Equal(t, want, acked(t, again, 4))
	silent(t, again)
}

// Dead letters keep their places however often they are looked at, and go where they are sent.
func TestKafkaDeadLetters(t *testing.T) { deadLettersStay(t, newKafka(t)) }

func deadLettersStay(t *testing.T, k *kafkaPlace) {
	queue := unique("queue")
	sub, pub := k.subscriber(t, queue, ""), k.publisher(t, "")
	dead := sub.DeadLetterQueue()
	err := sub.EachDeadLetter(t.Context(), dead, func(transport.DeadLetter) (bool, error) { return true, nil })
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	_, err = sub.PurgeDeadLetters(t.Context(), dead)
	require.ErrorIs(t, err, transport.ErrNoDeadLetters)
	messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	err = sub.EachDeadLetter(t.Context(), queue, func(transport.DeadLetter) (bool, error) { return true, nil })
	require.ErrorContains(t, err, "want a queue of dead letters")
	bury := func(body string) {
		require.NoError(t, pub.Publish(transport.DirectTopic(dead, "order"), message.NewMessage("x", []byte(body))))
	}
	for i := range 5 {
		bury(fmt.Sprint(i))
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
			require.Equal(t, "true", again.Metadata[transport.DirectKey])
			again.Ack()
			bury("3 failed again")
		}
		return true, nil
	}))
	require.Equal(t, 5, visited)
	want := []string{"0", "2", "4", "3 failed again"}
	require.Equal(t, want, look(t, sub, dead, 100))
	if k.fake != nil {
		k.fake.Compact()
		require.Equal(t, want, look(t, sub, dead, 100))
	}
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, sub.EachDeadLetter(ctx, dead, func(transport.DeadLetter) (bool, error) {
		cancel()
		return true, nil
	}), context.Canceled)
	purged, err := sub.PurgeDeadLetters(t.Context(), dead)
	require.NoError(t, err)
	require.Equal(t, 4, purged)
	require.Empty(t, look(t, sub, dead, 100))
}

// Whatever a name has in it, it is that name, and so has metadata.
func TestKafkaNames(t *testing.T) { namesAreKept(t, newKafka(t)) }

func namesAreKept(t *testing.T, k *kafkaPlace) {
	topics := []string{"a b", "a*", "a..b", ".", "ü", "a:b", "\x00", "-x", "order"}
	queue := "kü chen:*{}\r\n"
	s, err := k.subscriber(t, queue, "partitions=1").SubscribeBatch(t.Context(), topics, 100)
	require.NoError(t, err)
	metadata := message.Metadata{"": "empty", "_watermill_message_uuid": "mine", "payload": "\x00\xff"}
	var batch []transport.Outgoing
	for _, topic := range topics {
		batch = append(batch, outgoing(topic, 1)...)
		batch = append(batch, outgoing(transport.DirectTopic(queue, topic), 1)...)
	}
	direct := map[string]bool{}
	for i := range batch {
		batch[i].Message.Metadata = metadata
		direct[batch[i].Message.UUID] = i%2 == 1
	}
	accepted(t, k.publisher(t, "").PublishBatch(t.Context(), batch), len(batch))
	for range batch {
		msg := receive(t, s.Messages)
		require.Contains(t, direct, msg.UUID)
		require.Equal(t, direct[msg.UUID], msg.Metadata[transport.DirectKey] != "")
		delete(direct, msg.UUID)
		delete(msg.Metadata, transport.DirectKey)
		require.Equal(t, metadata, msg.Metadata)
		s.Settle([]*message.Message{msg}, nil)
	}
}
