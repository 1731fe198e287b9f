package queuetest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// removesNothingUnknown: a relay sent messages, and before it removes them the database goes back.
// What has their identities then, and their places, was never sent.
func removesNothingUnknown(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, kept("before", 0))
	restore := s.BackUp(t)
	lost := []queue.Message{kept("same", 0), kept("1", 0), kept("2", 0), kept("3", 0)}
	s.append(t, lost...)
	sent := s.claim(t)
	require.Len(t, sent, 5)
	handed := make([]*queue.Claimed, len(sent))
	for i, m := range sent {
		handed[i] = &queue.Claimed{Message: m.Message}
	}

	for name, done := range map[string]queue.Outcome{
		"sent": {Sent: sent}, "handed over": {Sent: handed}, "dead": {Dead: failures(sent, 0)},
	} {
		restore()
		s.append(t, lost[0], kept("1", 0), kept("3", 1), kept("2", 0))
		s.finish(t, "a", owned, done)
		require.ElementsMatch(t, []string{"same/0", "1/0", "2/0", "3/1"}, names(s.claim(t)), name)
		require.Equal(t, int64(len(done.Dead)/5), s.status(t).DeadLetters,
			"the one that was there before")
	}
}

// fencesTenures: owner and epoch come back with their values, and are another tenure.
func fencesTenures(t *testing.T, s *queueSuite) {
	restore := s.BackUp(t)
	former := s.balance(t, "a", ttl)
	s.append(t, message("1", 0))
	restore()
	current := s.balance(t, "a", ttl)
	require.Equal(t, former[0].Epoch, current[0].Epoch)
	require.NotEqual(t, former, current)
	s.append(t, message("1", 0))
	claimed := s.claim(t)
	s.finish(t, "a", former, queue.Outcome{Sent: claimed})
	s.finish(t, "a", former, queue.Outcome{Dead: failures(claimed, 0)})
	require.Equal(t, []string{"1/0"}, names(s.claim(t)))
	require.Zero(t, s.status(t).DeadLetters)
	s.finish(t, "a", current, queue.Outcome{Sent: claimed})
	require.Empty(t, s.claim(t))
}

// noticesThatItWentBack: the lease is not as it was renewed last.
func noticesThatItWentBack(t *testing.T, s *queueSuite) {
	s.balance(t, "a", ttl)
	restore := s.BackUp(t)
	renew := func() error {
		_, err := s.Renew(t.Context(), "a", ttl)
		return err
	}
	require.NoError(t, renew())
	restore()
	require.ErrorIs(t, renew(), queue.ErrWentBack)
	_, err := s.Balance(t.Context(), "a", ttl)
	require.ErrorIs(t, err, queue.ErrWentBack)

	owned, err := s.Enter(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Len(t, owned.Lanes, lanes)
	require.NoError(t, renew())
}

// entersAnew: who comes, or comes back, under the name of an owner is not that owner.
func entersAnew(t *testing.T, s *queueSuite) {
	former := s.balance(t, "a", ttl)
	s.append(t, message("1", 0))
	owned, err := s.Enter(t.Context(), "a", ttl)
	require.NoError(t, err)
	require.Len(t, owned.Lanes, lanes)
	claimed := s.claim(t)
	s.finish(t, "a", former, queue.Outcome{Sent: claimed})
	require.Len(t, s.claim(t), 1)
	s.finish(t, "a", owned.Lanes, queue.Outcome{Sent: claimed})
	require.Empty(t, s.claim(t))
}
