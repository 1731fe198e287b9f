package queuetest

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// record writes the next revision of a key as a writer does.
func (s *relaySuite) record(t *testing.T, key string) {
	t.Helper()
	m := message(key, 0)
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		k := queue.Key{Model: m.Model, Key: key}
		drawn, err := s.Lock(ctx, tx, []ledger.Change{{Key: k}})
		if err != nil {
			return err
		}
		m.Revision, m.After = drawn[k].Revision, drawn[k].After
		return s.Append(ctx, tx, []queue.Message{m}, nil)
	})
	require.NoError(t, err)
}

// die claims what is there, makes the message of one key and revision a dead
// letter, and removes the rest as sent.
func (s *relaySuite) die(
	t *testing.T, owned []queue.Lane, key string, revision int64,
) queue.DeadLetter {
	t.Helper()
	var done queue.Outcome
	for _, m := range s.claim(t) {
		if m.Key == key && m.Revision == revision {
			done.Dead = append(done.Dead, queue.Failure{Claimed: m, Error: "too large"})
		} else {
			done.Sent = append(done.Sent, m)
		}
	}
	require.Len(t, done.Dead, 1)
	s.finish(t, "a", owned, done)
	letters := s.letters(t, db.DeadLetterFilter{IDs: []int64{done.Dead[0].ID}})
	require.Len(t, letters, 1)
	return letters[0]
}

func (s *relaySuite) letters(t *testing.T, f db.DeadLetterFilter) (letters []queue.DeadLetter) {
	t.Helper()
	require.NoError(t, s.DeadLetters(t.Context(), f, 0, func(d queue.DeadLetter) error {
		letters = append(letters, d)
		return nil
	}))
	return letters
}

func putsBackWhole(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.record(t, "1")
	s.record(t, "1")
	d := s.die(t, owned, "1", 1)
	require.Equal(t, "too large", d.Error)
	require.Equal(t, 1, d.Attempts)
	require.NotZero(t, d.Dead)
	require.WithinDuration(t, time.Now(), d.Created, time.Minute)
	require.NoError(t, s.RetryDeadLetter(t.Context(), d.ID))

	claimed := s.claim(t)
	require.Equal(t, []string{"1/1"}, names(claimed))
	got := claimed[0].Message
	require.Greater(t, got.ID, d.ID, "behind everything of its key")
	require.Zero(t, claimed[0].Attempts)
	want := d.Message
	want.ID, want.Lane, want.Created = got.ID, got.Lane, got.Created
	require.Equal(t, want, got)
	require.Zero(t, s.status(t).DeadLetters)
	require.ErrorIs(t, s.RetryDeadLetter(t.Context(), d.ID), sql.ErrNoRows)

	s.record(t, "1")
	require.Equal(t, []string{"1/1", "1/2"}, names(s.claim(t)), "what is written later follows")
}

func keepsSuperseded(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.record(t, "1")
	d := s.die(t, owned, "1", 0)
	s.record(t, "1")
	superseded := func(reason string) {
		t.Helper()
		err := s.RetryDeadLetter(t.Context(), d.ID)
		require.ErrorIs(t, err, queue.ErrSuperseded)
		require.ErrorContains(t, err, reason)
	}
	superseded("revision 1 of its key has been sent or is on its way")
	require.Equal(t, []string{"1/1"}, names(s.claim(t)))
	newest := s.die(t, owned, "1", 1)
	superseded("revision 1 of its key")
	require.NoError(t, s.RetryDeadLetter(t.Context(), newest.ID))
	require.Equal(t, []string{"1/1"}, names(s.claim(t)))
	require.Equal(t, int64(1), s.status(t).DeadLetters)
}

func keepsDeleted(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.record(t, "1")
	d := s.die(t, owned, "1", 0)
	s.exec(t, "UPDATE outbox_revisions SET deleted = TRUE, revision = 1")
	err := s.RetryDeadLetter(t.Context(), d.ID)
	require.ErrorIs(t, err, queue.ErrSuperseded)
	require.ErrorContains(t, err, "its key was deleted in revision 1")
	s.exec(t, `DELETE FROM outbox_revisions`)
	require.ErrorContains(t, s.RetryDeadLetter(t.Context(), d.ID), "the ledger does not know its key")
	require.Empty(t, s.claim(t))
}

func retryWaitsForWriters(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.record(t, "1")
	d := s.die(t, owned, "1", 0)
	tx, err := s.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	k := queue.Key{Model: "order", Key: "1"}
	_, err = s.Lock(t.Context(), tx, []ledger.Change{{Key: k}})
	require.NoError(t, err)
	retried := make(chan error, 1)
	go func() { retried <- s.RetryDeadLetter(context.WithoutCancel(t.Context()), d.ID) }()
	select {
	case err := <-retried:
		require.FailNow(t, "it did not wait", "%v", err)
	case <-time.After(50 * time.Millisecond):
		// A chance to do it wrong; the test does not depend on it.
	}
	require.NoError(t, tx.Commit())
	require.ErrorIs(t, <-retried, queue.ErrSuperseded)
}

func listsAndPurges(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	var ids []int64
	for _, key := range []string{"1", "2", "3'"} {
		s.record(t, key)
		ids = append(ids, s.die(t, owned, key, 0).ID)
	}
	found := func(f db.DeadLetterFilter, limit int) (keys []string) {
		t.Helper()
		require.NoError(t, s.DeadLetters(t.Context(), f, limit, func(d queue.DeadLetter) error {
			keys = append(keys, d.Key)
			return nil
		}))
		return keys
	}
	require.Equal(t, []string{"1", "2", "3'"}, found(db.DeadLetterFilter{}, 0))
	require.Equal(t, []string{"2"}, found(db.DeadLetterFilter{After: ids[0]}, 1))
	require.Equal(t, []string{"1", "3'"},
		found(db.DeadLetterFilter{IDs: []int64{ids[0], ids[2], 99999}}, 0))
	require.Equal(t, []string{"3'"}, found(db.DeadLetterFilter{Model: "order", Key: "3'"}, 0))
	require.Empty(t, found(db.DeadLetterFilter{Model: "customer"}, 0))
	require.Empty(t, found(db.DeadLetterFilter{Before: time.Now().Add(-time.Hour)}, 0))

	n, err := s.PurgeDeadLetters(t.Context(), db.DeadLetterFilter{Before: time.Now().Add(-time.Hour)})
	require.NoError(t, err)
	require.Zero(t, n)
	n, err = s.PurgeDeadLetters(t.Context(), db.DeadLetterFilter{Key: "3'"})
	require.NoError(t, err)
	require.Equal(t, int64(1), n)
	n, err = s.PurgeDeadLetters(t.Context(), db.DeadLetterFilter{Before: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	require.Equal(t, int64(2), n)
}
