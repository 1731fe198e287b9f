package queuetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/queue"
)

func listsWriters(t *testing.T, s *queueSuite) {
	list := func() queue.Writers {
		writers, ok, err := s.Writers(t.Context())
		require.NoError(t, err)
		if !ok {
			t.Skip("the database cannot tell")
		}
		return writers
	}
	require.Empty(t, list().Open)
	require.Zero(t, list().Drawn)
	w := s.Begin(t)
	require.Empty(t, list().Open, "a transaction that has not appended anything")
	w.Append(t, []queue.Message{message("1", 0)})
	first := list()
	require.Len(t, first.Open, 1)
	require.Equal(t, first, list())
	w.Commit(t)
	s.append(t, message("1", 1))
	require.Empty(t, list().Open)
	last := s.claim(t)[1].ID
	require.Equal(t, last, list().Drawn)
	require.Less(t, first.Drawn, last)
	require.NotZero(t, first.Drawn)
}

func knowsWaitingLanes(t *testing.T, s *queueSuite) {
	waiting, err := s.WaitingLanes(t.Context())
	require.NoError(t, err)
	for lane := range lanes {
		require.False(t, waiting(lane))
	}
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0))
	claimed := s.claim(t)
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(claimed, time.Hour)})
	waiting, err = s.WaitingLanes(t.Context())
	require.NoError(t, err)
	for lane := range lanes {
		require.Equal(t, lane == claimed[0].Lane, waiting(lane))
	}
}

// listsNoOtherWriters: a transaction that writes to other tables may stay open for as long as it
// likes.
func listsNoOtherWriters(t *testing.T, s *relaySuite) {
	elsewhere, err := s.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = elsewhere.Rollback() }() // it is to be open until the end
	change := ledger.Change{Key: queue.Key{Model: "order", Key: "2"}}
	_, err = s.Lock(t.Context(), elsewhere, []ledger.Change{change})
	require.NoError(t, err)
	writers, ok, err := s.Writers(t.Context())
	require.NoError(t, err)
	if !ok {
		t.Skip("the database cannot tell")
	}
	require.Empty(t, writers.Open)
}
