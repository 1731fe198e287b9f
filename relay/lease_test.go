package relay_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

func TestAKilledRelayIsSucceeded(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.append(t, saves(30, 2)...)
		// What kill -9 leaves behind: lanes with an owner, and messages that were read and perhaps published.
		owned, err := e.Balance(t.Context(), "killed", time.Second)
		require.NoError(t, err)
		require.Len(t, owned.Lanes, 64)

		rel, _ := e.start(t, e.broker, relay.Config{LeaseTTL: time.Second})
		wait(t, rel.Running(), "the lanes of the killed relay")
		e.requireSent(t)
		require.Len(t, e.broker.received(), 60)
		e.broker.requireOrder(t)
		require.Equal(t, int64(1), e.status(t).Relays)
	})
}

func TestSeveralRelaysLoseNothingAndKeepTheOrder(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		// Long leases: on a machine that stands still for longer than a short one, a message may leave twice.
		cfg := relay.Config{BatchSize: 20, LeaseTTL: 5 * time.Second}
		_, stop := e.start(t, e.broker, cfg)
		const keys, revisions = 25, 24
		all := saves(keys, revisions)
		var writing sync.WaitGroup
		writing.Go(func() {
			for chunk := range slices.Chunk(all, keys) {
				require.NoError(t, e.Append(t.Context(), e.DB(), chunk, nil))
			}
		})
		second, _ := e.start(t, e.broker, cfg)
		third, _ := e.start(t, e.broker, cfg)
		if !oneRelay(db) {
			wait(t, second.Running(), "the second relay's share")
			wait(t, third.Running(), "the third relay's share")
		}
		e.append(t, save("late", 0))
		require.NoError(t, stop()) // one leaves while the others work
		writing.Wait()
		e.requireSent(t)
		require.Len(t, e.broker.received(), keys*revisions+1)
		e.broker.requireOrder(t)
		shares := []int64{32, 32}
		if oneRelay(db) {
			shares = []int64{0, 64}
		}
		eventually(t, func() bool {
			got := []int64{second.Stats().Lanes, third.Stats().Lanes}
			slices.Sort(got)
			return slices.Equal(shares, got)
		}, "fair shares")
	})
}

// oneRelay says that relays on this database work one at a time.
func oneRelay(db *bun.DB) bool { return db.Dialect().Name() == dialect.SQLite }

func TestOnSQLiteTheSecondRelayWaitsForTheFirst(t *testing.T) {
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	e := newEnv(t, db)
	first, stop := e.start(t, e.broker, relay.Config{})
	wait(t, first.Running(), "the first relay")
	second, _ := e.start(t, e.broker, relay.Config{LeaseTTL: 300 * time.Millisecond})
	e.append(t, saves(10, 2)...)
	e.requireSent(t)
	require.Equal(t, int64(64), first.Stats().Lanes)
	require.Zero(t, second.Stats().Published)
	require.NoError(t, stop())
	wait(t, second.Running(), "the second relay")
	e.append(t, saves(10, 2)...)
	e.requireSent(t)
	require.Equal(t, int64(20), second.Stats().Published)
}

func TestTheLeaseIsKeptWhileTheBrokerIsSlow(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		inFlight, release := make(chan struct{}), make(chan struct{})
		e.broker.before = func(context.Context, []transport.Outgoing) {
			close(inFlight)
			<-release
		}
		e.append(t, save("1", 0))
		e.start(t, e.broker, relay.Config{LeaseTTL: 2 * time.Second})
		wait(t, inFlight, "a batch in flight")
		first := e.expiry(t)
		eventually(t, func() bool { return e.expiry(t) != first }, "the lease is not renewed")
		second := e.expiry(t)
		eventually(t, func() bool { return e.expiry(t) != second }, "the lease is not renewed again")
		close(release)
		e.requireSent(t)
		require.Len(t, e.broker.received(), 1)
	})
}

func (e *env) expiry(t *testing.T) (text string) {
	t.Helper()
	require.NoError(t, e.DB().NewRaw("SELECT min(expires_at) FROM outbox_lanes").Scan(t.Context(), &text))
	return text
}

func TestARelayThatLostItsLanesGivesUpAndRemovesNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		var robbed atomic.Bool
		gaveUp := make(chan struct{})
		e.broker.before = func(ctx context.Context, _ []transport.Outgoing) {
			if robbed.CompareAndSwap(false, true) {
				// The database's clock jumped, and another relay took over.
				e.exec(t, "UPDATE outbox_lanes SET owner = 'other', epoch = epoch + 1")
				<-ctx.Done()
				close(gaveUp)
			}
		}
		e.append(t, save("1", 0))
		e.start(t, e.broker, relay.Config{LeaseTTL: time.Second})
		wait(t, gaveUp, "the publisher to be told")
		require.Equal(t, int64(1), e.status(t).Unsent)
		e.requireSent(t) // the other one's lease runs out
		require.Equal(t, []string{"1/0"}, e.broker.received())
	})
}
