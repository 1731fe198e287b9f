package transports_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

// embedded is what both embedded transports promise. "Exactly once" is what no queue that redelivers can.
var embedded = tests.Features{
	ConsumerGroups:                      true,
	GuaranteedOrder:                     true,
	GuaranteedOrderWithSingleSubscriber: true,
	Persistent:                          true, // for memory: within the process
}

func memoryBroker(testing.TB) broker {
	b := memory.New()
	return broker{
		publisher:  func(testing.TB) transport.BatchPublisher { return b.Publisher() },
		subscriber: func(_ testing.TB, queue string) transport.WindowSubscriber { return b.Subscriber(queue) },
		required: func(testing.TB) transport.BatchPublisher {
			pub := b.Publisher()
			pub.RequireQueue = true
			return pub
		},
		inboxes:  func(testing.TB) transport.WindowSubscriber { return b.Inbox() },
		features: embedded,
	}
}

func sqliteBroker(t testing.TB) broker {
	path := filepath.Join(t.TempDir(), "broker.db")
	require.NoError(t, sqliteSubscriber(t, sqlite.Config{Path: path}).SubscribeInitialize("makes the file"))
	return broker{
		publisher: func(t testing.TB) transport.BatchPublisher {
			return sqlitePublisher(t, sqlite.Config{Path: path, DropUnroutable: true}) // Watermill's suite publishes to nobody
		},
		subscriber: func(t testing.TB, queue string) transport.WindowSubscriber {
			// Watermill's suite nacks a message hundreds of times in a row.
			return sqliteSubscriber(t, sqlite.Config{Path: path, Queue: queue, NackDelay: 10 * time.Millisecond})
		},
		required: func(t testing.TB) transport.BatchPublisher {
			return sqlitePublisher(t, sqlite.Config{Path: path})
		},
		inboxes: func(t testing.TB) transport.WindowSubscriber {
			return sqliteSubscriber(t, sqlite.Config{Path: path, Inbox: true})
		},
		features: embedded,
	}
}

func TestMemory(t *testing.T) { conform(t, memoryBroker(t)) }

func TestSQLite(t *testing.T) { conform(t, sqliteBroker(t)) }

// RabbitMQ tries to, too, but a later message may be faster.
func TestEmbeddedQueuesTakeMessagesBackInOrder(t *testing.T) {
	for name, b := range map[string]broker{"memory": memoryBroker(t), "sqlite": sqliteBroker(t)} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			messages, err := b.sub(t, "webhooks").SubscribeWindow(ctx, "order", 8)
			require.NoError(t, err)
			batch := outgoing("order", 20)
			accepted(t, b.pub(t).PublishBatch(t.Context(), batch), 20)
			for range 5 {
				receive(t, messages)
			}
			cancel()
			closed(t, messages)
			require.Equal(t, ids(batch), acked(t, b.window(t, "webhooks", "order", 20), 20))
		})
	}
}

func sqlitePublisher(t testing.TB, config sqlite.Config) *sqlite.Publisher {
	t.Helper()
	pub, err := sqlite.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func sqliteSubscriber(t testing.TB, config sqlite.Config) *sqlite.Subscriber {
	t.Helper()
	sub, err := sqlite.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}
