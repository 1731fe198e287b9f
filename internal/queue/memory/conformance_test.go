package memory_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/queue/memory"
	"github.com/cqrsync/cqrsync/internal/queue/queuetest"
)

// What a relay needs is the same in memory and in every database.
func TestQueue(t *testing.T) {
	queuetest.Queue(t, func(testing.TB) queuetest.Subject {
		d := memory.New(64)
		return queuetest.Subject{
			Queue:  d.Connect(),
			Begin:  func(testing.TB) queuetest.Writer { return begin(d) },
			BackUp: func(testing.TB) func() { return d.BackUp() },
			Hold:   func(_ testing.TB, ids ...int64) func() { return d.Hold(ids...) },
		}
	})
}

func begin(d *memory.Database) queuetest.Writer {
	tx := d.Begin()
	return queuetest.Writer{
		Append: func(_ testing.TB, messages []queue.Message) []*queue.Claimed {
			return tx.Append(messages...)
		},
		Commit: func(t testing.TB) {
			t.Helper()
			require.NoError(t, tx.Commit())
		},
	}
}
