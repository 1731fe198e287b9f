package sqlite_test

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport/sqlite"
)

const lease = 300 * time.Millisecond

// held returns a subscription with one message in work.
func held(t *testing.T, path string) (<-chan *message.Message, *message.Message) {
	t.Helper()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks", Lease: lease})
	messages, err := sub.Subscribe(t.Context(), "order")
	require.NoError(t, err)
	pub := newPublisher(t, sqlite.Config{Path: path})
	require.NoError(t, pub.Publish("order", message.NewMessage("slow", nil)))
	return messages, receive(t, messages)
}

func leasedUntil(t *testing.T, path string) (until int64) {
	t.Helper()
	err := connect(t, path).QueryRowContext(t.Context(), "SELECT coalesce(max(leased_until), 0) FROM consumers").Scan(&until)
	require.NoError(t, err)
	return until
}

func TestALeaseIsRenewedWhileAHandlerWorks(t *testing.T) {
	path := newPath(t)
	_, msg := held(t, path)
	began := leasedUntil(t, path)
	require.Eventually(t, func() bool { return leasedUntil(t, path) > began+2*lease.Milliseconds() }, patience, lease/3)
	require.Equal(t, 1, count(t, path, "messages WHERE consumer > 0"), "nobody else may have it")
	msg.Ack()
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond)
}

func TestASuspendedConsumerLosesItsMessagesAndGoesOnLater(t *testing.T) {
	path := newPath(t)
	messages, msg := held(t, path)
	// It was suspended for longer than its lease, and another process has buried it.
	exec(t, path, "BEGIN IMMEDIATE; DELETE FROM consumers; UPDATE messages SET consumer = 0; COMMIT")
	other, err := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"}).Subscribe(t.Context(), "order")
	require.NoError(t, err)
	again := receive(t, other)
	require.Equal(t, "slow", again.UUID)

	msg.Nack() // is not its to give back any more
	require.NoError(t, newPublisher(t, sqlite.Config{Path: path}).Publish("order", message.NewMessage("next", nil)))
	next := receive(t, messages)
	require.Equal(t, "next", next.UUID)
	next.Ack()
	require.Eventually(t, func() bool { return count(t, path, "consumers") == 2 }, patience, lease/3, "it lives again")
	require.Eventually(t, func() bool { return count(t, path, "messages WHERE uuid = 'next'") == 0 }, patience, lease/3)

	again.Ack()
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond)
}

// What a dead process took after its lease had ended, so after it had
// been buried, is found as well.
func TestNoMessageStaysWithTheDead(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	require.NoError(t, newPublisher(t, sqlite.Config{Path: path}).Publish("order", message.NewMessage("orphan", nil)))
	exec(t, path, "UPDATE messages SET consumer = 4711")
	log, logger := newLog()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks", Logger: logger})
	messages, err := sub.Subscribe(t.Context(), "order")
	require.NoError(t, err)
	require.Equal(t, "orphan", receive(t, messages).UUID)
	require.True(t, log.contains("crashed consumer"))
}

func TestALeftQueueKeepsNoTraceOfTheConsumer(t *testing.T) {
	path := newPath(t)
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	messages, err := sub.Subscribe(t.Context(), "order")
	require.NoError(t, err)
	require.NoError(t, newPublisher(t, sqlite.Config{Path: path}).Publish("order", message.NewMessage("1", nil)))
	receive(t, messages)
	require.NoError(t, sub.Close())
	require.Zero(t, count(t, path, "consumers"))
	require.Equal(t, 1, count(t, path, "messages WHERE consumer = 0"))
}
