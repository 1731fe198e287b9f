package sqlite_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

const pollEvery = 5 * time.Millisecond

func expiring(id string, ttl time.Duration) *message.Message {
	msg := message.NewMessage(id, nil)
	msg.Metadata.Set(transport.ExpirationKey, fmt.Sprint(ttl.Milliseconds()))
	return msg
}

// later moves what is noted in the file into the past.
func later(t *testing.T, path string, by time.Duration) {
	t.Helper()
	exec(t, path, fmt.Sprintf("BEGIN IMMEDIATE;"+
		" UPDATE messages SET expires_at = max(expires_at - %[1]d, 1) WHERE expires_at > 0;"+
		" UPDATE bindings SET inbox_used_at = inbox_used_at - %[1]d WHERE inbox_used_at > 0; COMMIT",
		by.Milliseconds()))
}

func subscribed(t *testing.T, path string) <-chan *message.Message {
	t.Helper()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	messages, err := sub.Subscribe(t.Context(), "order")
	require.NoError(t, err)
	return messages
}

// publishOne is done by a new publisher, which looks at once for what has expired.
func publishOne(t *testing.T, path, topic string) error {
	t.Helper()
	return newPublisher(t, sqlite.Config{Path: path}).Publish(topic, message.NewMessage("1", nil))
}

func waiting(t *testing.T, path, queue string) int64 {
	t.Helper()
	n, err := newSubscriber(t, sqlite.Config{Path: path, Queue: queue}).Waiting(t.Context())
	require.NoError(t, err)
	return n
}

func TestAnInboxDropsWhatIsOld(t *testing.T) {
	path := newPath(t)
	inbox := newSubscriber(t, sqlite.Config{Path: path, Inbox: true})
	require.NoError(t, inbox.SubscribeInitialize("in"))
	makeQueue(t, path, "other", "in")
	makeQueue(t, path, "webhooks", "order")
	require.NoError(t, newPublisher(t, sqlite.Config{Path: path}).Publish("in",
		expiring("short", time.Minute), expiring("long", time.Hour), message.NewMessage("plain", nil)))
	later(t, path, 2*time.Minute)
	require.EqualValues(t, 2, waiting(t, path, "in"))
	require.EqualValues(t, 2, waiting(t, path, "other"))
	later(t, path, 7*time.Minute)
	require.EqualValues(t, 2, waiting(t, path, "in"))
	later(t, path, 2*time.Minute)
	require.EqualValues(t, 0, waiting(t, path, "in"), "10 minutes")
	require.EqualValues(t, 2, waiting(t, path, "other"), "another queue has no such limit")
	require.Equal(t, 6, count(t, path, "messages"))
	require.NoError(t, publishOne(t, path, "order"))
	require.Equal(t, 3, count(t, path, "messages"), "publishers to any queue drop it")
}

// What nobody reads stays bounded, however fast it comes, and what a consumer holds is its own.
func TestExpiredMessagesOfAnUnreadQueueAreDropped(t *testing.T) {
	path := newPath(t)
	messages := subscribed(t, path)
	makeQueue(t, path, "abandoned", "report")
	pub := newPublisher(t, sqlite.Config{Path: path})
	require.NoError(t, pub.Publish("report", message.NewMessage("stays", nil)))
	require.NoError(t, pub.Publish("order", expiring("in work", time.Minute)))
	held := receive(t, messages)
	batch := make([]transport.Outgoing, 2500)
	for i := range batch {
		batch[i] = transport.Outgoing{Topic: "report", Message: expiring(fmt.Sprint(i), time.Minute)}
	}
	for range 2 {
		for _, err := range pub.PublishBatch(t.Context(), batch) {
			require.NoError(t, err)
		}
	}
	later(t, path, time.Hour)
	next := newPublisher(t, sqlite.Config{Path: path})
	for range 3 {
		require.NoError(t, next.Publish("report", message.NewMessage("more", nil)))
	}
	require.Equal(t, 5, count(t, path, "messages"), "stays, in work, and three more")
	held.Nack()
	require.NoError(t, next.Publish("order", message.NewMessage("after", nil)))
	msg := receive(t, messages)
	require.Equal(t, "after", msg.UUID, "what comes back expired is dropped")
	msg.Ack()
	require.Eventually(t, func() bool { return count(t, path, "messages") == 4 }, patience, pollEvery)
}

// A consumer that comes late has what is good at once, however much is not.
func TestAConsumerPassesOverWhatHasExpired(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	batch := make([]transport.Outgoing, 9000)
	for i := range batch {
		batch[i] = transport.Outgoing{Topic: "order", Message: message.NewMessage(fmt.Sprint(i), nil)}
		if i%3000 != 0 {
			batch[i].Message = expiring(fmt.Sprint(i), time.Minute)
		}
	}
	for _, err := range newPublisher(t, sqlite.Config{Path: path}).PublishBatch(t.Context(), batch) {
		require.NoError(t, err)
	}
	later(t, path, time.Hour)
	began := time.Now()
	messages := subscribed(t, path)
	for _, want := range []string{"0", "3000", "6000"} {
		msg := receive(t, messages)
		require.Equal(t, want, msg.UUID)
		msg.Ack()
	}
	require.Less(t, time.Since(began), patience/2)
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, pollEvery)
}

func TestAnInboxWithoutConsumersIsRemovedAfterADay(t *testing.T) {
	path := newPath(t)
	inbox := newSubscriber(t, sqlite.Config{Path: path, Inbox: true, Lease: lease})
	require.NoError(t, inbox.SubscribeInitialize("never"))
	_, err := inbox.Subscribe(t.Context(), "used")
	require.NoError(t, err)
	makeQueue(t, path, "webhooks", "order")
	later(t, path, 23*time.Hour)
	require.NoError(t, publishOne(t, path, "never"))
	later(t, path, time.Hour)
	require.ErrorIs(t, publishOne(t, path, "never"), transport.ErrUnroutable)
	later(t, path, 48*time.Hour)
	require.NoError(t, publishOne(t, path, "used"), "it has a consumer")
	require.Eventually(t, func() bool {
		hourAgo := time.Now().Add(-time.Hour).UnixMilli()
		return count(t, path, fmt.Sprintf("bindings WHERE inbox_used_at > %d", hourAgo)) == 1
	}, patience, lease/3, "which says so from time to time")
	later(t, path, 48*time.Hour)
	require.NoError(t, inbox.Close())
	later(t, path, 23*time.Hour)
	require.NoError(t, publishOne(t, path, "used"), "it had one until now")
	later(t, path, time.Hour)
	require.ErrorIs(t, publishOne(t, path, "used"), transport.ErrUnroutable)
	require.NoError(t, publishOne(t, path, "order"), "a replica's queue stays for ever")
}

// A process that was suspended for a day finds its inbox again.
func TestARemovedInboxComesBack(t *testing.T) {
	path := newPath(t)
	inbox := newSubscriber(t, sqlite.Config{Path: path, Inbox: true, Lease: lease})
	messages, err := inbox.Subscribe(t.Context(), "in")
	require.NoError(t, err)
	exec(t, path, "DELETE FROM bindings")
	require.Eventually(t, func() bool { return count(t, path, "bindings") == 1 }, patience, lease/3)
	require.NoError(t, publishOne(t, path, "in"))
	require.Equal(t, "1", receive(t, messages).UUID)
}

func TestAnInboxHasNoOtherName(t *testing.T) {
	_, err := sqlite.NewSubscriber(sqlite.Config{Path: newPath(t), Inbox: true, Queue: "webhooks"})
	require.ErrorContains(t, err, `sqlite.Config.Queue is "webhooks"`)
}
