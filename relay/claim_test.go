package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/transport"
)

// slow takes messages and does not say what became of them until ctx ends.
type slow struct{ everywhere }

func (slow) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	<-ctx.Done()
	return make([]error, len(batch))
}

// What is read and has no room is read again, past everything that is in its way.
func TestABacklogOfFewKeysIsReadNoFasterThanItIsSent(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		const keys, revisions = 25, 20
		r := newRelay(t, db, slow{}, Config{BatchSize: 10})
		var all []store.Message
		for revision := range int64(revisions) {
			for key := range keys {
				all = append(all, store.Message{
					Model: "order", Key: fmt.Sprint(key), Revision: revision, Signal: "SAVE", Keep: true,
					PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
				})
			}
		}
		require.NoError(t, r.store.Append(t.Context(), db, all, nil))

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for quiet := 0; quiet < 5; {
			before := len(r.flow.known)
			r.advance(ctx)
			waiting, stop := context.WithTimeout(ctx, 50*time.Millisecond)
			r.wait(waiting)
			stop()
			quiet++
			if r.tasks.messages == 0 || r.tasks.claiming || len(r.flow.known) != before {
				quiet = 0
			}
		}
		require.GreaterOrEqual(t, len(r.flow.known), 20, "the broker has two batches")
		for key, q := range r.flow.keys {
			require.Nil(t, q.more, "there was no room for the next message of key %s", key.Key)
		}
		cancel()
		for r.finishing(ctx) {
			r.wait(context.Background())
		}
	})
}
