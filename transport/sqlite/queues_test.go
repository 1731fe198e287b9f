package sqlite_test

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

func TestQueuesAreListedAndRemoved(t *testing.T) {
	path := newPath(t)
	_, err := sqlite.Queues(t.Context(), path)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.NoFileExists(t, path)

	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	messages, err := sub.Subscribe(t.Context(), "order")
	require.NoError(t, err)
	makeQueue(t, path, "departed", "order")
	makeQueue(t, path, "departed", "customer")
	batch := make([]transport.Outgoing, 2500)
	for i := range batch {
		batch[i] = transport.Outgoing{Topic: "order", Message: message.NewMessage(fmt.Sprint(i), nil)}
	}
	pub := newPublisher(t, sqlite.Config{Path: path})
	for _, err := range pub.PublishBatch(t.Context(), batch) {
		require.NoError(t, err)
	}
	receive(t, messages)

	queues, err := sqlite.Queues(t.Context(), path)
	require.NoError(t, err)
	require.Len(t, queues, 2)
	require.WithinDuration(t, time.Now(), queues[0].Oldest, time.Minute)
	queues[0].Oldest, queues[1].Oldest = time.Time{}, time.Time{}
	require.Equal(t, []sqlite.QueueInfo{
		{Name: "departed", Topics: []string{"cqrs.departed.customer", "cqrs.departed.order", "customer", "order"}, Waiting: 2500},
		{Name: "webhooks", Topics: []string{"cqrs.webhooks.order", "order"}, Waiting: 2500, Consumers: 1},
	}, queues)

	_, err = sqlite.RemoveQueue(t.Context(), path, "webhooks")
	require.ErrorIs(t, err, sqlite.ErrInUse)
	_, err = sqlite.RemoveQueue(t.Context(), path, "mistyped")
	require.ErrorIs(t, err, sqlite.ErrNoQueue)
	dropped, err := sqlite.RemoveQueue(t.Context(), path, "departed")
	require.NoError(t, err)
	require.EqualValues(t, 2500, dropped)
	require.Equal(t, 2500, count(t, path, "messages"), "the other queue's stay")
	require.ErrorIs(t, pub.Publish("customer", message.NewMessage("x", nil)), transport.ErrUnroutable)

	require.NoError(t, sub.Close())
	dropped, err = sqlite.RemoveQueue(t.Context(), path, "webhooks")
	require.NoError(t, err)
	require.EqualValues(t, 2500, dropped)
}

// Files of every version are taken over, with what is in them.
func TestAnOlderFileIsTakenOver(t *testing.T) {
	second := "DROP INDEX messages_by_expiry; ALTER TABLE messages DROP COLUMN expires_at;" +
		" ALTER TABLE bindings DROP COLUMN inbox_used_at; PRAGMA user_version = 2;"
	for name, back := range map[string]string{
		"2": second,
		"1": second + "ALTER TABLE consumers DROP COLUMN queue; PRAGMA user_version = 1",
	} {
		t.Run(name, func(t *testing.T) {
			path := newPath(t)
			makeQueue(t, path, "webhooks", "order")
			pub := newPublisher(t, sqlite.Config{Path: path})
			require.NoError(t, pub.Publish("order", message.NewMessage("0", nil)))
			require.NoError(t, pub.Close())
			exec(t, path, back)
			messages := subscribed(t, path)
			require.NoError(t, newPublisher(t, sqlite.Config{Path: path}).Publish("order",
				expiring("late", 0), message.NewMessage("1", nil)))
			for _, want := range []string{"0", "1"} {
				msg := receive(t, messages)
				require.Equal(t, want, msg.UUID)
				msg.Ack()
			}
			require.Equal(t, 1, count(t, path, "pragma_user_version WHERE user_version = 3"))
		})
	}
}
