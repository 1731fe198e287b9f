package transports_test

import (
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

func TestMemory(t *testing.T) {
	b := memory.New()
	conform(t, broker{
		publisher:  func(testing.TB) transport.BatchPublisher { return b.Publisher() },
		subscriber: func(_ testing.TB, queue string) transport.WindowSubscriber { return b.Subscriber(queue) },
		features:   embedded,
	})
}

func TestSQLite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.db")
	conform(t, broker{
		publisher: func(t testing.TB) transport.BatchPublisher {
			return sqlitePublisher(t, sqlite.Config{Path: path})
		},
		subscriber: func(t testing.TB, queue string) transport.WindowSubscriber {
			// Watermill's suite nacks a message hundreds of times in a row.
			return sqliteSubscriber(t, sqlite.Config{Path: path, Queue: queue, NackDelay: 10 * time.Millisecond})
		},
		features: embedded,
	})
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
