package operate_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
)

// backUp keeps the master's rows and its ledger, as a dump does, and returns what restores them.
// What was in the outbox is gone then.
func (s *service) backUp() (restore func()) {
	s.Helper()
	tables := []string{"accounts", "outbox_revisions"}
	for _, table := range tables {
		s.exec(s.master, "CREATE TABLE backup_"+table+" AS SELECT * FROM "+table)
	}
	return func() {
		s.Helper()
		s.exec(s.master, "DELETE FROM outbox_messages")
		for _, table := range tables {
			s.exec(s.master, "DELETE FROM "+table)
			s.exec(s.master, "INSERT INTO "+table+" SELECT * FROM backup_"+table)
		}
	}
}

func (s *service) repair(o operate.DiffOptions) operate.Result {
	s.Helper()
	result, err := operate.Diff(s.Context(), s.box, s.rep, "account", &bytes.Buffer{}, o)
	require.NoError(s, err)
	return result
}

// Commits are lost, and the application goes on: one comparison makes the replica equal, the next
// one finds nothing.
func TestDiffTakesTheReplicaBackWhereTheMasterWentBack(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 6)
		s.carry()
		restore := s.backUp()
		for id := range int64(4) {
			for _, name := range []string{"lost", "lost too", "lost as well"} {
				s.rename(id+1, name)
			}
		}
		s.remove(5)
		s.accounts(7, 8)
		s.carry()
		restore()
		s.rename(1, "once again") // behind the replica's revision
		s.rename(2, "a")          // up to it
		s.rename(2, "b")          //
		s.rename(2, "c")          //
		for range 5 {             // beyond it
			s.rename(3, "on and on")
		}
		s.carry()
		require.Equal(s, "lost as well", s.copied()[1])
		require.Equal(s, "c", s.copied()[2])
		require.Equal(s, "on and on", s.copied()[3])

		result := s.repair(operate.DiffOptions{CheckOnly: true})
		require.EqualValues(s, 3, result.Ahead, "keys 1, 4 and 5: %+v", result)
		require.EqualValues(s, 2, result.Extra)
		result = s.repair(operate.DiffOptions{})
		require.EqualValues(s, 3, result.Sent)
		require.EqualValues(s, 2, result.Deleted)
		s.carry()
		require.Equal(s, s.wanted(), s.copied())
		require.True(s, s.repair(operate.DiffOptions{Content: true}).Equal())

		for id := range int64(6) {
			s.rename(id+1, "and on")
		}
		s.carry()
		require.Equal(s, s.wanted(), s.copied())
	})
}

// A repair that the broker delivers once more, after the master went on, must not bring the old
// state back.
func TestARepairThatComesTwiceDoesNotTakeTheReplicaBackAgain(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 1)
		s.carry()
		restore := s.backUp()
		s.rename(1, "lost")
		s.rename(1, "lost")
		s.carry()
		restore()
		require.EqualValues(s, 1, s.repair(operate.DiffOptions{}).Sent)
		s.exec(s.master, "CREATE TABLE again AS SELECT * FROM outbox_messages")
		s.carry()
		require.Equal(s, "account", s.copied()[1])
		s.rename(1, "newer")
		s.carry()
		again := s.messages("again")
		results, err := s.rep.Apply(s.Context(), again)
		require.NoError(s, err)
		require.Len(s, results, 1)
		require.Equal(s, "newer", s.copied()[1])
	})
}

// A replica that is ahead because the master went on while it was listed is not forced.
func TestWhatTheMasterWroteSinceTheListingIsNotForced(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 2)
		s.carry()
		var listed, differing bytes.Buffer
		_, err := operate.DiffMaster(s.Context(), s.box, "account", &listed, operate.DiffMasterOptions{})
		require.NoError(s, err)
		s.rename(1, "newer")
		s.carry()
		found, err := operate.DiffReplica(s.Context(), s.rep, &listed, &differing, operate.Options{})
		require.NoError(s, err)
		require.Zero(s, found.Differing)
	})
}

// What a wrong list deleted comes back with the next comparison.
func TestWhatWasDeletedByMistakeComesBack(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		s.rename(2, "renamed")
		s.carry()
		now, err := s.rep.Now(s.Context())
		require.NoError(s, err)
		d, err := operate.DeletedSyncReplica(s.Context(), s.rep, listOf(now, "[1,2]"), operate.Options{}, nil)
		require.NoError(s, err)
		require.EqualValues(s, 2, d.Deleted)
		require.Len(s, s.copied(), 1)
		require.EqualValues(s, 2, s.repair(operate.DiffOptions{}).Sent)
		s.carry()
		require.Equal(s, s.wanted(), s.copied())
		require.True(s, s.repair(operate.DiffOptions{Content: true}).Equal())
	})
}

func TestForcedSyncsSayUntilWhen(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 1)
		s.carry()
		now, err := s.box.Now(s.Context())
		require.NoError(s, err)
		require.NoError(s, s.box.RunInTx(s.Context(), nil, func(context.Context, bun.Tx) error { return nil }))
		_, err = operate.Sync(s.Context(), s.box, "account", operate.SyncOptions{To: outbox.SyncOptions{ForceUntil: now}})
		require.NoError(s, err)
		messages := s.messages("outbox_messages")
		require.Len(s, messages, 1)
		require.Equal(s, now, messages[0].ForceUntil)
		require.False(s, messages[0].Force)
	})
}

// A list whose time cannot be read says nothing of what came since: it is refused, and nothing is
// deleted or forced by it.
func TestAListWithoutAReadableTimeIsRefused(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 2)
		s.carry()
		for _, header := range []string{"account,", "account,yesterday", "account,2026-13-40", "account,17"} {
			_, err := operate.DeletedSyncReplica(s.Context(), s.rep,
				strings.NewReader(header+"\n[1]\n"), operate.Options{}, nil)
			require.ErrorIs(s, err, operate.ErrNotADiff, header)
			require.ErrorContains(s, err, "line 1", header)
			_, err = operate.DiffReplica(s.Context(), s.rep, strings.NewReader(header+"\n[[1,0]]\n"),
				io.Discard, operate.Options{})
			require.ErrorIs(s, err, operate.ErrNotADiff, header)
		}
		require.Len(s, s.copied(), 2)
	})
}
