package queue_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// Where nothing can be written down because the whole table is locked, all of it is left.
func TestFinishLeavesAllWhereTheTableIsLocked(t *testing.T) {
	dbtest.OnServers(t, func(t *testing.T, rawURL string) {
		s := newStore(t, dbtest.Open(t, rawURL))
		require.NoError(t, s.Make(t.Context()))
		s.Limit(time.Second, nil)
		owned, err := s.Enter(t.Context(), "a", time.Hour)
		require.NoError(t, err)
		insert(t, s)
		claimed, _, err := s.Claim(t.Context(), []queue.Start{{Lane: 1}}, 10, queue.Except{})
		require.NoError(t, err)
		require.Len(t, claimed, 1)

		conn, err := s.DB().Conn(t.Context())
		require.NoError(t, err)
		defer func() { _ = conn.Close() }() // with what is locked, where the test ends early
		lock, unlock, holders := "LOCK TABLES outbox_messages WRITE", "UNLOCK TABLES", ""
		if strings.HasPrefix(rawURL, "postgres") {
			lock, unlock, holders = "BEGIN; LOCK TABLE outbox_messages", "ROLLBACK", "database process"
		}
		_, err = conn.ExecContext(t.Context(), lock)
		require.NoError(t, err)
		for name, finish := range map[string]func(context.Context, string, []queue.Lane, queue.Outcome) error{
			"Finish": s.Finish, "FinishFree": s.FinishFree,
		} {
			var locked *queue.UnfinishedError
			require.ErrorAs(t, finish(t.Context(), "a", owned.Lanes, queue.Outcome{Sent: claimed}), &locked, name)
			require.Equal(t, claimed, locked.Left.Sent, name)
			require.Contains(t, locked.Holders, holders, name)
		}
		_, err = conn.ExecContext(t.Context(), unlock)
		require.NoError(t, err)
		require.NoError(t, s.FinishFree(t.Context(), "a", owned.Lanes, queue.Outcome{Sent: claimed}))
		st, err := s.Status(t.Context())
		require.NoError(t, err)
		require.Zero(t, st.Unsent)
	})
}
