package transports_test

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
)

// expires: what has waited for too long is gone when somebody comes for it, and all else is there.
func expires(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	keeper := b.keeper(t, queue)
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{topic}))
	batch := outgoing(topic, 12)
	batch[3].Topic = transport.DirectTopic(queue, topic)
	for i, expiration := range []string{"1", "20", "0", "50", "60000", "315360000000"} {
		batch[i].Message.Metadata.Set(transport.ExpirationKey, expiration)
		batch[i].Message.Metadata.Set("other", "stays")
	}
	accepted(t, b.strict(t).PublishBatch(t.Context(), batch), len(batch))
	own := batch[0].Message.Metadata
	require.Equal(t, "1", own[transport.ExpirationKey], "the caller's are not touched")
	b.expired(t, keeper, 50*time.Millisecond, 8)
	messages := b.window(t, queue, topic, 3)
	for i, out := range batch[4:] {
		msg := receive(t, messages)
		require.Equal(t, out.Message.UUID, msg.UUID)
		require.NotContains(t, msg.Metadata, transport.ExpirationKey, "it does not travel")
		require.Equal(t, i < 2, msg.Metadata["other"] == "stays")
		msg.Ack()
	}
	silent(t, messages)

	// Many at the head of the queue keep nobody waiting.
	late := outgoing(topic, 301)
	for _, out := range late[:300] {
		out.Message.Metadata.Set(transport.ExpirationKey, strconv.Itoa(1))
	}
	quiet, head := unique("queue"), unique("topic")
	require.NoError(t, b.keeper(t, quiet).KeepQueue(t.Context(), []string{head}))
	for i := range late {
		late[i].Topic = head
	}
	accepted(t, b.strict(t).PublishBatch(t.Context(), late), len(late))
	b.expired(t, b.keeper(t, quiet), time.Millisecond, 1)
	began := time.Now()
	require.Equal(t, ids(late[300:]), acked(t, b.window(t, quiet, head, 1), 1))
	require.Less(t, time.Since(began), patience/2)
}

// refusesExpirations: one that RabbitMQ would refuse is refused everywhere, and its neighbours
// pass.
func refusesExpirations(t *testing.T, b broker) {
	queue, topic := unique("queue"), unique("topic")
	messages := b.window(t, queue, topic, 20)
	wrong := []string{"soon", "-1", "1.5", "315360000001", "99999999999999999999", " ", "1000ms", "0x10"}
	batch := outgoing(topic, 2*len(wrong))
	var want []string
	for i := range batch {
		if i%2 == 0 {
			want = append(want, batch[i].Message.UUID)
			batch[i].Message.Metadata.Set(transport.ExpirationKey, "") // as if it were not there
			continue
		}
		batch[i].Message.Metadata.Set(transport.ExpirationKey, wrong[i/2])
	}
	pub := b.pub(t)
	errs := pub.PublishBatch(t.Context(), batch)
	for i, err := range errs {
		if i%2 == 0 {
			require.NoError(t, err)
			continue
		}
		require.Error(t, err, wrong[i/2])
		require.ErrorContains(t, err, batch[i].Message.UUID)
		require.NotErrorIs(t, err, transport.ErrUnavailable, "trying again does not help")
		require.False(t, transport.AtDestination(err), "it is the message's own fault")
		require.Error(t, pub.Publish(topic, batch[i].Message))
	}
	seen := map[string]bool{}
	var got []string
	for len(got) < len(want) { // what was on its way with what was refused comes twice
		msg := receive(t, messages)
		if !seen[msg.UUID] {
			got = append(got, msg.UUID)
		}
		seen[msg.UUID] = true
		msg.Ack()
	}
	require.Equal(t, want, got)
}
