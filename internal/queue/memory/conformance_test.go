package memory_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/queue/memory"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/internal/store/storetest"
)

// What a relay needs is the same in memory and in every database.
func TestQueue(t *testing.T) {
	storetest.Queue(t, func(testing.TB) storetest.Subject {
		d := memory.New(64)
		return storetest.Subject{
			Queue:  d.Connect(),
			Begin:  func(testing.TB) storetest.Writer { return begin(d) },
			BackUp: func(testing.TB) func() { return d.BackUp() },
			Hold:   func(_ testing.TB, ids ...int64) func() { return d.Hold(ids...) },
		}
	})
}

func begin(d *memory.Database) storetest.Writer {
	tx := d.Begin()
	return storetest.Writer{
		Append: func(_ testing.TB, messages []store.Message) []*queue.Claimed {
			return tx.Append(messages...)
		},
		Commit: func(t testing.TB) {
			t.Helper()
			require.NoError(t, tx.Commit())
		},
	}
}
