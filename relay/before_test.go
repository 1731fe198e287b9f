package relay_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
)

// Nothing leaves before Before has done its work, however often it fails.
func TestNothingLeavesBeforeBefore(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.append(t, saves(5, 1)...)
		var calls atomic.Int64
		var let atomic.Bool
		rel, stop := e.start(t, e.broker, relay.Config{Before: func(context.Context) error {
			calls.Add(1)
			if !let.Load() {
				return errors.New("a queue cannot be made")
			}
			return nil
		}})
		require.Eventually(t, func() bool { return calls.Load() >= 3 }, 30*time.Second, 10*time.Millisecond)
		require.Empty(t, e.broker.received())
		let.Store(true)
		wait(t, rel.Running(), "lanes")
		e.requireSent(t)
		require.NoError(t, stop())
		require.Len(t, e.broker.received(), 5)
	})
}

// A relay that is told to stop does not wait for Before.
func TestAStopEndsBefore(t *testing.T) {
	e := newEnv(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	called := make(chan struct{})
	_, stop := e.start(t, e.broker, relay.Config{Before: func(ctx context.Context) error {
		close(called)
		<-ctx.Done()
		return ctx.Err()
	}})
	wait(t, called, "the call")
	require.NoError(t, stop())
}
