package queuetest

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// endsTheWaitForAWholeClaim: were a key's wait over for the later rows of a claim only,
// they would leave before the others.
func endsTheWaitForAWholeClaim(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	var messages []queue.Message
	for revision := range int64(1000) {
		m := kept("1", revision)
		if revision%2 > 0 {
			m = message("2", revision)
		}
		messages = append(messages, m)
	}
	s.append(t, messages...)
	first := func(claimed []*queue.Claimed, key string) *queue.Claimed {
		return claimed[slices.IndexFunc(claimed, func(m *queue.Claimed) bool { return m.Key == key })]
	}
	oldest := map[string]*queue.Claimed{"1": first(s.claim(t), "1"), "2": first(s.claim(t), "2")}
	for range 25 {
		wait := time.Duration(rand.Int64N(int64(20 * time.Millisecond)))
		failed := failures([]*queue.Claimed{oldest["1"], oldest["2"]}, wait)
		s.finish(t, "a", owned, queue.Outcome{Failed: failed})
		for waiting := true; waiting; {
			claimed := s.claim(t)
			waiting = len(claimed) < 1000
			seen := map[string]bool{}
			for _, m := range claimed {
				if !seen[m.Key] && !m.Waiting {
					require.Equal(t, oldest[m.Key].Revision, m.Revision, m.Key)
				}
				seen[m.Key] = true
			}
		}
	}
}

func endsTheWait(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0), kept("2", 0))
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(s.claim(t), time.Hour)})
	require.Empty(t, s.claim(t))

	s.append(t, kept("1", 1), message("2", 1))
	require.Empty(t, s.claim(t),
		"what replaces nothing waits, and what cannot be replaced is waited for")
	s.append(t, message("1", 2))
	claimed := s.claim(t)
	require.Equal(t, []string{"1/2"}, names(claimed))
	require.True(t, claimed[0].Waiting)

	require.NoError(t, s.MakeDue(t.Context(), []queue.Key{{Model: "order", Key: "1"}}))
	claimed = s.claim(t)
	require.Equal(t, []string{"1/0", "1/1", "1/2"}, names(claimed))
	require.False(t, claimed[0].Waiting)
	require.Equal(t, 1, claimed[0].Attempts)
	require.Zero(t, claimed[2].Attempts, "what replaces the message that failed has not been tried")
	require.True(t, claimed[2].Failed)

	s.finish(t, "a", owned, queue.Outcome{Sent: claimed})
	require.Equal(t, int64(1), s.status(t).Retries, "that key waits no longer, the other does")
}
