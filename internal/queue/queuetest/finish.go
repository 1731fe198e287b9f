package queuetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
)

func removesWhatWasHandedOver(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	messages := make([]queue.Message, 40)
	for i := range messages {
		messages[i] = message(fmt.Sprint(i), 0)
		messages[i].Follows = true
	}
	w := s.Begin(t)
	offered := w.Append(t, messages)
	w.Commit(t)
	require.Len(t, offered, len(messages))
	s.finish(t, "a", owned, queue.Outcome{Sent: offered[:15]})
	s.finish(t, "b", owned, queue.Outcome{Sent: offered[15:]}) // who does not own the lanes
	var left []string
	for _, m := range s.claim(t) {
		left = append(left, m.Key)
	}
	var want []string
	for _, m := range messages[15:] {
		want = append(want, m.Key)
	}
	require.ElementsMatch(t, want, left)
}

func sparesAttempts(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0), kept("2", 0))
	spared := failures(s.claim(t), blink)
	for i := range spared {
		spared[i].Spared = true
	}
	for range 3 {
		s.finish(t, "a", owned, queue.Outcome{Failed: spared})
		require.Equal(t, int64(2), s.status(t).Retries)
		claimed := s.claim(t)
		require.Len(t, claimed, 2)
		for _, m := range claimed {
			require.Zero(t, m.Attempts)
			require.True(t, m.Failed)
		}
	}
	spared[0].Wait, spared[1].Wait = time.Hour, time.Hour
	s.finish(t, "a", owned, queue.Outcome{Failed: spared})
	require.Empty(t, s.claim(t), "they wait all the same")
	s.append(t, message("1", 1))
	claimed := s.claim(t)
	require.Equal(t, []string{"1/1"}, names(claimed))
	require.True(t, claimed[0].Waiting, "for nothing: it replaces the other")
	require.NoError(t, s.MakeDue(t.Context(), []queue.Key{{Model: "order", Key: "1"}}))
	claimed = s.claim(t)
	s.finish(t, "a", owned, queue.Outcome{Sent: claimed})
	require.Equal(t, int64(1), s.status(t).Retries)
}

func sentEndsRetries(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0), message("1", 1))
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(only(s.claim(t), "1", 0), blink)})
	s.finish(t, "a", owned, queue.Outcome{Sent: only(s.claim(t), "1", 0)})
	require.Zero(t, s.status(t).Retries)
	left := s.claim(t)
	require.Equal(t, []string{"1/1"}, names(left))
	require.Zero(t, left[0].Attempts)
}

func fencesRemoval(t *testing.T, s *queueSuite) {
	old := s.balance(t, "a", blink)
	s.append(t, message("1", 0), message("2", 0))
	claimed := s.claim(t)
	current := s.balance(t, "b", ttl)
	s.finish(t, "a", old, queue.Outcome{Sent: claimed})
	require.Len(t, s.claim(t), 2, "the old owner removes nothing")
	s.finish(t, "b", old, queue.Outcome{Sent: claimed})
	require.Len(t, s.claim(t), 2, "an old epoch removes nothing")
	s.finish(t, "b", current, queue.Outcome{Sent: claimed})
	require.Empty(t, s.claim(t))
}

func fencesBurial(t *testing.T, s *queueSuite) {
	old := s.balance(t, "a", blink)
	s.append(t, message("1", 0))
	claimed := s.claim(t)
	s.balance(t, "b", ttl)
	s.finish(t, "a", old, queue.Outcome{Dead: failures(claimed, 0)})
	require.Zero(t, s.status(t).DeadLetters)
	require.Len(t, s.claim(t), 1)
}

func buriesWhole(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	dead := message("1", 3)
	dead.Queue, dead.CorrelationID, dead.Meta = "webhooks", "c-1", json.RawMessage(`{"m":1}`)
	s.append(t, dead, message("1", 4))
	claimed := only(s.claim(t), "1", 3)
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(claimed, blink)})
	claimed = only(s.claim(t), "1", 3)
	s.finish(t, "a", owned, queue.Outcome{Dead: failures(claimed, 0)})

	require.Equal(t, []string{"1/4"}, names(s.claim(t)), "the next revision may go")
	st := s.status(t)
	require.Equal(t, int64(1), st.DeadLetters)
	require.Zero(t, st.Retries)
	var row struct {
		ID            int64
		Model, Key    string
		Revision      int64
		Queue, Meta   string
		CorrelationID string
		Attempts      int
		LastError     string
	}
	require.NoError(t, s.DB().NewSelect().Table("outbox_dead_letters").
		Column("id", "model", "key", "revision", "queue", "meta", "correlation_id", "attempts",
			"last_error").
		Scan(t.Context(), &row))
	require.Equal(t, claimed[0].ID, row.ID)
	require.Equal(t, int64(3), row.Revision)
	require.Equal(t, "webhooks", row.Queue)
	require.Equal(t, `{"m":1}`, row.Meta)
	require.Equal(t, "c-1", row.CorrelationID)
	require.Equal(t, 2, row.Attempts)
	require.Equal(t, "no queue", row.LastError)
}

func storesAnyErrorText(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0))
	failed := failures(s.claim(t), time.Hour)
	failed[0].Error = "broken \x00 \xff? ' " + strings.Repeat("é", 10_000)
	s.finish(t, "a", owned, queue.Outcome{Failed: failed})
	var text string
	require.NoError(t, s.DB().NewSelect().Table("outbox_retries").Column("last_error").
		Scan(t.Context(), &text))
	require.True(t, strings.HasPrefix(text, "broken  ? ' é"))
	require.LessOrEqual(t, len(text), 2000)
}
