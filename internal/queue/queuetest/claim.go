package queuetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/queue"
)

func claimsWholeMessages(t *testing.T, s *queueSuite) {
	after := int64(4)
	updated := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	full := queue.Message{
		Model: "order", Key: `["a'?",1]`, Revision: 7, After: &after, Signal: "SAVE", Queue: "webhooks",
		PK:       json.RawMessage(`["a'?",1]`),
		Data:     json.RawMessage(`{"n":12345678901234567890.10,"s":"é ' \" ?"}`),
		Previous: json.RawMessage(`{"n":1}`), Meta: json.RawMessage(`{"m":[]}`),
		Headers: map[string]string{"traceparent": "00-ab-cd-01"}, CorrelationID: "c-1",
		Updated: updated, Expires: updated.Add(24 * time.Hour), Keep: true,
	}
	bare := message("1", 0)
	bare.Updated = updated
	s.append(t, full, bare)
	got := map[string]queue.Message{}
	for _, m := range s.claim(t) {
		require.NotZero(t, m.ID)
		require.NoError(t, m.Invalid)
		require.Zero(t, m.Attempts)
		key := m.Key
		require.WithinDuration(t, time.Now(), m.Created, time.Minute)
		m.ID, m.Lane, m.Created = 0, 0, time.Time{}
		got[key] = m.Message
	}
	require.Equal(t, map[string]queue.Message{full.Key: full, bare.Key: bare}, got)
}

func claimsInOrder(t *testing.T, s *queueSuite) {
	for revision := range int64(3) {
		for key := range 50 {
			s.append(t, message(fmt.Sprint(key), revision))
		}
	}
	all := s.claim(t)
	require.Len(t, all, 150)
	for i, m := range all[1:] {
		previous := all[i]
		require.True(t, previous.Lane < m.Lane || previous.Lane == m.Lane && previous.ID < m.ID)
	}
	first, unread, err := s.Claim(t.Context(), allLanes(), 2, queue.Except{})
	require.NoError(t, err)
	require.Empty(t, unread)
	var want []*queue.Claimed
	perLane := map[int]int{}
	for _, m := range all {
		if perLane[m.Lane]++; perLane[m.Lane] <= 2 {
			want = append(want, m)
		}
	}
	require.Equal(t, want, first)

	one, _, err := s.Claim(t.Context(), []queue.Start{{Lane: all[0].Lane}}, 1000, queue.Except{})
	require.NoError(t, err)
	require.Len(t, one, perLane[all[0].Lane])
	for _, m := range one {
		require.Equal(t, all[0].Lane, m.Lane)
	}
	from := []queue.Start{{Lane: all[0].Lane, After: all[0].ID}}
	rest, _, err := s.Claim(t.Context(), from, 1000, queue.Except{})
	require.NoError(t, err)
	require.Equal(t, one[1:], rest)
	last := all[len(all)-1].Lane
	both := []queue.Start{{Lane: last}, {Lane: all[0].Lane}}
	turned, _, err := s.Claim(t.Context(), both, 1, queue.Except{})
	require.NoError(t, err)
	require.Equal(t, []int{last, all[0].Lane}, []int{turned[0].Lane, turned[1].Lane},
		"lanes come as they are listed")
	some, _, err := s.Claim(t.Context(), []queue.Start{{Lane: all[0].Lane}}, 1, queue.Except{
		IDs: []int64{one[0].ID, 12345},
		Keys: []queue.Key{
			{Model: "order", Key: one[1].Key}, {Model: "other", Key: one[0].Key},
		},
	})
	require.NoError(t, err)
	for _, m := range some {
		require.NotEqual(t, one[0].ID, m.ID)
		require.NotEqual(t, one[1].Key, m.Key)
	}
	none, _, err := s.Claim(t.Context(), nil, 10, queue.Except{})
	require.NoError(t, err)
	require.Empty(t, none)
}

func claimsBoundedBytes(t *testing.T, s *queueSuite) {
	large := message("1", 0)
	large.Data = json.RawMessage(`{"s":"` + strings.Repeat("x", 3<<19) + `"}`)
	for large.Revision < 4 {
		s.append(t, large)
		large.Revision++
	}
	claimed, unread, err := s.Claim(t.Context(), allLanes(), 100, queue.Except{})
	require.NoError(t, err)
	require.Len(t, claimed, 3)
	require.Equal(t, claimed[0].Lane, unread[0])

	for key := range 8 {
		large.Key, large.Revision = fmt.Sprint("k", key), 0
		s.append(t, large)
	}
	claimed, unread, err = s.Claim(t.Context(), allLanes(), 100, queue.Except{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(claimed), 3)
	require.LessOrEqual(t, len(claimed), 4, "one more for a second connection")
	known := queue.Except{}
	for more := claimed; len(more) > 0; {
		for _, m := range more {
			known.IDs = append(known.IDs, m.ID)
		}
		more, _, err = s.Claim(t.Context(), allLanes(), 100, known)
		require.NoError(t, err)
		for _, m := range more {
			require.Contains(t, unread, m.Lane, "of message %d nothing was said", m.ID)
		}
	}
	require.Len(t, known.IDs, 12)
	require.NotEmpty(t, s.claim(t), "the connection is in order")
}

func findsLateCommits(t *testing.T, s *queueSuite) {
	if s.OneWriter {
		t.Skip("one writer: nothing can commit late")
	}
	w := s.Begin(t)
	w.Append(t, []queue.Message{message("early", 0)})
	s.append(t, message("late", 0))
	owned := s.balance(t, "a", ttl)
	claimed := s.claim(t)
	require.Len(t, claimed, 1)
	s.finish(t, "a", owned, queue.Outcome{Sent: claimed})

	w.Commit(t)
	rest := s.claim(t)
	require.Len(t, rest, 1)
	require.Less(t, rest[0].ID, claimed[0].ID)
}

func saysWhatIsInvalid(t *testing.T, s *relaySuite) {
	s.append(t, message("bad", 0), message("good", 0))
	s.exec(t, `UPDATE outbox_messages SET headers = '["not","an","object"]' WHERE ? = 'bad'`,
		bun.Ident("key"))
	for _, m := range s.claim(t) {
		if m.Key == "bad" {
			require.ErrorContains(t, m.Invalid, "headers of outbox message")
		} else {
			require.NoError(t, m.Invalid)
		}
	}
}

func leavesOutWaitingKeys(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, kept("bad", 0), kept("bad", 1), message("good", 0))
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(only(s.claim(t), "bad", 0), time.Hour)})
	require.Equal(t, []string{"good/0"}, names(s.claim(t)))
	require.Equal(t, int64(1), s.status(t).Retries)

	// Its time has come.
	s.exec(t, "UPDATE outbox_retries SET "+
		"next_attempt_at = (SELECT min(created_at) FROM outbox_messages)")
	claimed := s.claim(t)
	require.ElementsMatch(t, []string{"bad/0", "bad/1", "good/0"}, names(claimed))
	bad := only(claimed, "bad", 0)
	require.Equal(t, 1, bad[0].Attempts)

	s.finish(t, "a", owned, queue.Outcome{Failed: failures(bad, blink)})
	require.Equal(t, 2, only(s.claim(t), "bad", 0)[0].Attempts)
}
