package queue_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// TestAnotherServerIsNoticed: the pool of connections leads to another server than the one that the lanes were taken from.
func TestAnotherServerIsNoticed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		s, err := mastertest.New(db)
		require.NoError(t, err)
		if s.DB().Dialect().Name() == dialect.SQLite {
			t.Skip("SQLite has no server that another could take the place of")
		}
		require.NoError(t, s.Make(t.Context()))
		owned, err := s.Enter(t.Context(), "a", time.Minute)
		require.NoError(t, err)
		m := queue.Message{
			Model: "order", Key: "1", Signal: "SAVE", PK: json.RawMessage("1"), Data: json.RawMessage("{}"), Updated: time.Now(),
		}
		require.NoError(t, s.Append(t.Context(), db, []queue.Message{m}, nil))
		starts := make([]queue.Start, len(owned.Lanes))
		for i, l := range owned.Lanes {
			starts[i].Lane = l.Lane
		}
		claimed, _, err := s.Claim(t.Context(), starts, 10, queue.Except{})
		require.NoError(t, err)
		require.Len(t, claimed, 1)

		s.PretendServer("before")
		glimpsed, _, err := s.Glance(t.Context(), starts, 10, queue.Except{})
		require.NoError(t, err, "it was asked a moment ago")
		require.Empty(t, glimpsed, "but nothing is taken from it")
		s.ForgetAnswer()
		_, _, err = s.Glance(t.Context(), starts, 10, queue.Except{})
		require.ErrorIs(t, err, queue.ErrWentBack)
		_, _, err = s.Claim(t.Context(), starts, 10, queue.Except{})
		require.ErrorIs(t, err, queue.ErrWentBack)
		require.ErrorIs(t, s.Finish(t.Context(), "a", owned.Lanes, queue.Outcome{Sent: claimed}), queue.ErrWentBack)
		_, err = s.Renew(t.Context(), "a", time.Minute)
		require.ErrorIs(t, err, queue.ErrWentBack)
		_, err = s.Balance(t.Context(), "a", time.Minute)
		require.ErrorIs(t, err, queue.ErrWentBack)

		again, err := s.Enter(t.Context(), "a", time.Minute)
		require.NoError(t, err)
		require.Len(t, again.Lanes, len(owned.Lanes))
		claimed, _, err = s.Claim(t.Context(), starts, 10, queue.Except{})
		require.NoError(t, err)
		require.Len(t, claimed, 1, "it was not removed")
		require.NoError(t, s.Finish(t.Context(), "a", again.Lanes, queue.Outcome{Sent: claimed}))
		claimed, _, err = s.Claim(t.Context(), starts, 10, queue.Except{})
		require.NoError(t, err)
		require.Empty(t, claimed)
	})
}
