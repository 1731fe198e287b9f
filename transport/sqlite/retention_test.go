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

func age(t *testing.T, path string, by time.Duration) {
	t.Helper()
	exec(t, path, fmt.Sprintf("UPDATE messages SET published_at = published_at - %d", by.Milliseconds()))
}

func TestWhatNobodyReadsIsDroppedAfterTheRetention(t *testing.T) {
	path := newPath(t)
	log, logger := newLog()
	makeQueue(t, path, "abandoned", "order")
	makeQueue(t, path, "webhooks", "customer")
	week := 7 * 24 * time.Hour
	first := newPublisher(t, sqlite.Config{Path: path, Retention: week})
	require.NoError(t, first.Publish("order", message.NewMessage("1", nil), message.NewMessage("2", nil)))
	require.NoError(t, first.Publish("customer", message.NewMessage("3", nil)))
	age(t, path, 6*24*time.Hour)

	require.NoError(t, newPublisher(t, sqlite.Config{Path: path, Retention: week}).Publish("order", message.NewMessage("4", nil)))
	require.Equal(t, 4, count(t, path, "messages"), "not yet")

	age(t, path, 2*24*time.Hour)
	forever := newPublisher(t, sqlite.Config{Path: path})
	require.NoError(t, forever.Publish("order", message.NewMessage("5", nil)))
	require.Equal(t, 5, count(t, path, "messages"), "nobody has asked for it")

	last := newPublisher(t, sqlite.Config{Path: path, Retention: week, Logger: logger})
	require.NoError(t, last.Publish("order", message.NewMessage("6", nil)))
	require.Equal(t, 3, count(t, path, "messages"))
	require.Equal(t, 3, count(t, path, "messages WHERE uuid IN ('4', '5', '6')"))
	require.True(t, log.contains("queue=abandoned count=2 retention=168h"))
	require.True(t, log.contains("queue=webhooks count=1 retention=168h"))
}

func TestAMessageInWorkIsNotDropped(t *testing.T) {
	path := newPath(t)
	messages, err := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"}).Subscribe(t.Context(), "order")
	require.NoError(t, err)
	pub := newPublisher(t, sqlite.Config{Path: path, Retention: time.Hour})
	require.NoError(t, pub.Publish("order", message.NewMessage("in work", nil), message.NewMessage("waits", nil)))
	msg := receive(t, messages)
	age(t, path, 2*time.Hour)

	next := newPublisher(t, sqlite.Config{Path: path, Retention: time.Hour})
	require.NoError(t, next.Publish("order", message.NewMessage("new", nil)))
	msg.Nack()
	msg = receive(t, messages)
	require.Equal(t, "in work", msg.UUID)
	msg.Ack()
	require.Equal(t, "new", receive(t, messages).UUID)
}

func TestALargeBacklogIsDroppedInSteps(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "abandoned", "order")
	batch := make([]transport.Outgoing, 4500)
	for i := range batch {
		batch[i] = transport.Outgoing{Topic: "order", Message: message.NewMessage(fmt.Sprint(i), nil)}
	}
	for _, err := range newPublisher(t, sqlite.Config{Path: path}).PublishBatch(t.Context(), batch) {
		require.NoError(t, err)
	}
	age(t, path, 8*24*time.Hour)

	pub := newPublisher(t, sqlite.Config{Path: path, Retention: 7 * 24 * time.Hour})
	for _, want := range []int{2501, 502, 3} {
		require.NoError(t, pub.Publish("order", message.NewMessage("new", nil)))
		require.Equal(t, want, count(t, path, "messages"))
	}
}

func TestAQueueThatNobodyReadsIsNamedInTheLog(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "abandoned", "order")
	_, err := newSubscriber(t, sqlite.Config{Path: path, Queue: "slow"}).Subscribe(t.Context(), "order")
	require.NoError(t, err)
	require.NoError(t, newPublisher(t, sqlite.Config{Path: path}).Publish("order", message.NewMessage("1", nil)))
	age(t, path, 2*time.Hour)

	log, logger := newLog()
	pub := newPublisher(t, sqlite.Config{Path: path, Logger: logger})
	require.NoError(t, pub.Publish("order", message.NewMessage("2", nil)))
	require.Equal(t, 1, log.times("nobody reads a queue"))
	require.True(t, log.contains("queue=abandoned oldest=2h"))
}
