package relay_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
)

func TestTheNumberOfLanesChangesWhileWritersWriteAndRelaysRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		e := newEnv(t, bunDB)
		e.start(t, e.broker, relay.Config{LeaseTTL: 600 * time.Millisecond})
		e.start(t, e.broker, relay.Config{LeaseTTL: 600 * time.Millisecond})

		var writing sync.WaitGroup
		stopWriting := make(chan struct{})
		var written, conflicts atomic.Int64
		for w := range 3 {
			s, err := mastertest.New(bunDB) // which counts lanes by itself
			require.NoError(t, err)
			writing.Go(func() {
				for n := 0; ; n++ {
					select {
					case <-stopWriting:
						return
					default:
					}
					err := record(s, fmt.Sprintf("w%d-%d", w, n%10))
					switch {
					case db.Conflicted(err):
						conflicts.Add(1)
					case err != nil:
						t.Errorf("write: %v", err)
						return
					default:
						written.Add(1)
					}
				}
			})
		}
		for _, count := range []int{5, 100} {
			before := written.Load()
			eventually(t, func() bool { return written.Load() > before+20 }, "nobody writes")
			require.NoError(t, e.SetLanes(t.Context(), count, func(string) {}))
			owners, err := e.LaneOwners(t.Context())
			require.NoError(t, err)
			require.Len(t, owners, count)
		}
		before := written.Load()
		eventually(t, func() bool { return written.Load() > before+20 }, "nobody writes afterwards")
		close(stopWriting)
		writing.Wait()
		e.requireSent(t)
		e.broker.requireOrder(t)
		sent := e.broker.received()
		slices.Sort(sent)
		require.GreaterOrEqual(t, int64(len(slices.Compact(sent))), written.Load())
		eventually(t, func() bool { return e.status(t).LanesOwned == 100 }, "every new lane has an owner")
		t.Logf("%d written, %d refused and written again", written.Load(), conflicts.Load())
	})
}

// record writes the next revision of a key.
func record(s *mastertest.Outbox, key string) error {
	return s.DB().RunInTx(context.Background(), nil, func(ctx context.Context, tx bun.Tx) error {
		k := queue.Key{Model: "order", Key: key}
		drawn, err := s.Lock(ctx, tx, []ledger.Change{{Key: k}})
		if err != nil {
			return err
		}
		m := save(key, drawn[k].Revision)
		m.After = drawn[k].After
		return s.Append(ctx, tx, []queue.Message{m}, nil)
	})
}

func TestAChangeOfLanesThatIsGivenUpLeavesEverythingAsItWas(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		// A relay that does not answer keeps its lanes.
		_, err := e.Balance(t.Context(), "silent", time.Minute)
		require.NoError(t, err)
		ctx, cancel := context.WithCancelCause(t.Context())
		var said []string
		err = e.SetLanes(ctx, 3, func(what string) {
			said = append(said, what)
			cancel(fmt.Errorf("enough"))
		})
		require.ErrorContains(t, err, "set 3 lanes: enough while waiting for the relays to give back 64 lanes")
		require.Equal(t, []string{"waiting for the relays to give back 64 lanes"}, said)
		st := e.status(t)
		require.Equal(t, int64(64), st.LanesOwned)
		require.Equal(t, int64(1), st.Relays)
		owned, err := e.Balance(t.Context(), "silent", time.Minute)
		require.NoError(t, err)
		require.Len(t, owned.Lanes, 64)
		require.Equal(t, 64, owned.Share)

		require.ErrorContains(t, e.SetLanes(t.Context(), 0, nil), "0 lanes: want 1 to 1024")
		require.NoError(t, e.LeaveAll(t.Context(), "silent"))
		require.NoError(t, e.SetLanes(t.Context(), 64, nil), "as many as there are")
		require.NoError(t, e.SetLanes(t.Context(), 1024, nil))
		require.NoError(t, e.SetLanes(t.Context(), 1, nil))
		owners, err := e.LaneOwners(t.Context())
		require.NoError(t, err)
		require.Equal(t, []queue.LaneOwner{{Lane: 64 + 1024, Epoch: 3}}, owners)
	})
}
