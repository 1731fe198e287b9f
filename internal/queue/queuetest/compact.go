package queuetest

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// chain makes revisions first to last of a key, each naming the one before it.
func chain(key string, first, last int64) (messages []queue.Message) {
	for revision := first; revision <= last; revision++ {
		m := message(key, revision)
		if revision > 0 {
			after := revision - 1
			m.After = &after
		}
		messages = append(messages, m)
	}
	return messages
}

func (s *queueSuite) compact(
	t *testing.T, relay string, owned []queue.Lane, perLane int,
) (seen, dropped int) {
	t.Helper()
	done, err := s.Compact(t.Context(), relay, owned, allLanes(), perLane, time.Minute)
	require.NoError(t, err)
	return done.Seen, done.Dropped
}

func compacts(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, chain("new", 0, 4)...)
	s.append(t, chain("old", 7, 9)...)
	gone := chain("gone", 3, 4)
	gone[1].Signal = "DELETE"
	s.append(t, gone...)
	s.append(t, chain("single", 5, 5)...)
	dropped := 0
	// A lane that another one's transaction keeps waiting is left for the next time.
	require.Eventually(t, func() bool {
		_, some := s.compact(t, "a", owned, 100)
		dropped += some
		return dropped >= 7
	}, 10*time.Second, time.Millisecond)
	require.Equal(t, 7, dropped)
	claimed := s.claim(t)
	require.ElementsMatch(t, []string{"new/4", "old/9", "gone/4", "single/5"}, names(claimed))
	require.Nil(t, only(claimed, "new", 4)[0].After, "as the first one had it")
	require.Equal(t, int64(6), *only(claimed, "old", 9)[0].After)
	require.Equal(t, int64(2), *only(claimed, "gone", 4)[0].After)
	require.Equal(t, int64(4), *only(claimed, "single", 5)[0].After)

	s.append(t, chain("old", 10, 11)...)
	_, dropped = s.compact(t, "a", owned, 100)
	require.Equal(t, 2, dropped)
	require.Equal(t, int64(6), *only(s.claim(t), "old", 11)[0].After)
	s.finish(t, "a", owned, queue.Outcome{Sent: s.claim(t)})
	require.Zero(t, s.status(t).Unsent, "they are found where they are now")
}

func givesUpCompaction(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, chain("1", 0, 5)...)
	done, err := s.Compact(t.Context(), "a", owned, allLanes(), 100, -1)
	require.NoError(t, err)
	require.Zero(t, done.Seen)
	require.Zero(t, done.Dropped)
	require.ElementsMatch(t, allLanes(), done.Left)
	require.Len(t, s.claim(t), 6)
	_, dropped := s.compact(t, "a", owned, 100)
	require.Equal(t, 5, dropped)
}

// compactsOnward goes on where the last one ended, lane by lane, and finds what that one left.
func compactsOnward(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	for key := range 200 {
		s.append(t, chain(fmt.Sprint("k", key), 0, 4)...)
	}
	starts, dropped := allLanes(), 0
	for range 20 {
		done, err := s.Compact(t.Context(), "a", owned, starts, 4, time.Minute)
		require.NoError(t, err)
		dropped += done.Dropped
		require.Len(t, done.Left, lanes)
		for i, start := range starts {
			require.Equal(t, start.Lane, done.Left[i].Lane)
			require.GreaterOrEqual(t, done.Left[i].After, start.After)
		}
		starts = done.Left
	}
	claimed := s.claim(t)
	require.Equal(t, 200*5, dropped+len(claimed))
	for key := range 200 {
		require.NotEmpty(t, only(claimed, fmt.Sprint("k", key), 4))
	}
	for _, m := range claimed {
		require.Greater(t, m.ID, starts[m.Lane].After)
	}
}

// compactsNothingChanged: what somebody else changes meanwhile stays,
// and what it follows must, too.
func compactsNothingChanged(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, chain("1", 0, 9)...)
	var done queue.Compacted
	s.whileRevision4Moves(t, func() (err error) {
		done, err = s.Compact(t.Context(), "a", owned, allLanes(), 100, time.Minute)
		return err
	})
	require.Zero(t, done.Dropped, "1/4 says that it follows 1/3")
	require.Equal(t, allLanes(), done.Left)
	require.Len(t, s.claim(t), 10)
	_, dropped := s.compact(t, "a", owned, 100)
	require.Equal(t, 9, dropped)
	require.Nil(t, s.claim(t)[0].After)
}

// removesWhatMoves: a compaction changes what was handed over and not read, also while it is
// removed. A row that stayed would be sent again, behind newer ones.
func removesWhatMoves(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, chain("1", 0, 9)...)
	claimed := s.claim(t)
	handed := make([]*queue.Claimed, len(claimed))
	for i, m := range claimed {
		handed[i] = &queue.Claimed{Message: m.Message}
	}
	s.whileRevision4Moves(t, func() error {
		return s.Finish(t.Context(), "a", owned, queue.Outcome{Sent: handed[:6]})
	})
	require.Equal(t, []string{"1/6", "1/7", "1/8", "1/9"}, names(s.claim(t)))

	s.append(t, chain("2", 0, 9)...)
	read := slices.DeleteFunc(s.claim(t), func(m *queue.Claimed) bool { return m.Key != "2" })
	s.whileRevision4Moves(t, func() error {
		return s.Finish(t.Context(), "a", owned, queue.Outcome{Sent: read})
	})
	require.Equal(t, []string{"1/6", "1/7", "1/8", "1/9"}, names(s.claim(t)))
	s.finish(t, "a", owned, queue.Outcome{Sent: read})
}

// whileRevision4Moves runs something that begins while a message is being changed and meets that.
func (s *relaySuite) whileRevision4Moves(t *testing.T, run func() error) {
	t.Helper()
	if s.DB().Dialect().Name() != dialect.PG {
		t.Skip("rows are where they were, or there is one writer")
	}
	tx, err := s.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback() }() // it is committed below
	_, err = tx.ExecContext(t.Context(), "UPDATE outbox_messages SET after = after WHERE revision = 4")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- run() }()
	require.Eventually(t, func() (waits bool) {
		require.NoError(t, s.DB().NewRaw(`SELECT EXISTS (
			SELECT 1 FROM pg_stat_activity AS a JOIN pg_locks AS l USING (pid)
			WHERE l.relation = 'outbox_messages'::regclass AND a.wait_event_type = 'Lock')`).
			Scan(t.Context(), &waits))
		return waits
	}, time.Minute, 5*time.Millisecond)
	require.NoError(t, tx.Commit())
	require.NoError(t, <-ended)
}

func compactsNoOther(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	messages := chain("1", 0, 5)
	messages[1].Keep = true
	messages[2].Queue = "webhooks"
	messages[3].Signal = "SYNC"
	messages[4].Previous = json.RawMessage(`{"status":"old"}`)
	s.append(t, messages...)
	s.append(t, message("2", 0))
	synced := chain("3", 0, 2)
	synced[1].Signal, synced[1].After = "SYNC", nil
	s.append(t, synced...)
	_, dropped := s.compact(t, "a", owned, 100)
	require.Equal(t, 1, dropped)
	claimed := s.claim(t)
	require.ElementsMatch(t,
		[]string{"1/0", "1/1", "1/2", "1/3", "1/4", "1/5", "2/0", "3/1", "3/2"}, names(claimed),
		"1/1 says that it follows 1/0")
	require.Nil(t, only(claimed, "3", 2)[0].After)
}

func compactsFenced(t *testing.T, s *queueSuite) {
	old := s.balance(t, "a", blink)
	s.append(t, chain("1", 0, 9)...)
	current := s.balance(t, "b", ttl)
	_, dropped := s.compact(t, "a", old, 100)
	require.Zero(t, dropped, "the old owner drops nothing")
	_, dropped = s.compact(t, "b", old, 100)
	require.Zero(t, dropped, "an old epoch drops nothing")
	seen, dropped := s.compact(t, "b", current, 4)
	require.Equal(t, 4, seen)
	require.Equal(t, 3, dropped)
	require.Equal(t, "1/3", names(s.claim(t))[0])
}
