package operate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/operate"
)

var errInterrupted = errors.New("interrupted")

// interruptedOnce runs an operation that is interrupted after one line, and what goes on from
// there.
func (s *service) interruptedOnce(run func(o operate.Options) error) {
	s.Helper()
	o := operate.Options{PageSize: 10}
	o.ReachedLine = func(lines int) error { o.SkipLines = lines; return errInterrupted }
	require.ErrorIs(s, run(o), errInterrupted)
	require.Equal(s, 1, o.SkipLines)
	o.ReachedLine = nil
	require.NoError(s, run(o))
}

func TestInterruptedDiffsGoOn(t *testing.T) {
	for _, content := range []bool{false, true} {
		each(t, func(s *service) {
			s.accounts(1, 25)
			s.exec(s.master, "DELETE FROM outbox_messages")

			var listed, differing bytes.Buffer
			o := operate.DiffMasterOptions{Options: operate.Options{PageSize: 10}, Content: content}
			o.Reached = func(pk json.RawMessage) error { o.After = pk; return errInterrupted }
			_, err := operate.DiffMaster(s.Context(), s.box, "account", &listed, o)
			require.ErrorIs(s, err, errInterrupted)
			require.Equal(s, "10", string(o.After))
			o.Reached = nil
			_, err = operate.DiffMaster(s.Context(), s.box, "account", &listed, o)
			require.NoError(s, err)
			require.Equal(s, 5, strings.Count(listed.String(), "\n"), "first line and mark stand there once")

			s.interruptedOnce(func(o operate.Options) error {
				_, err := operate.DiffReplica(s.Context(), s.rep, bytes.NewReader(listed.Bytes()), &differing, o)
				return err
			})
			require.Equal(s, 5, strings.Count(differing.String(), "\n"), differing.String())

			var sent int64
			s.interruptedOnce(func(o operate.Options) error {
				n, err := operate.DiffSync(s.Context(), s.box, bytes.NewReader(differing.Bytes()), o)
				sent += n
				return err
			})
			require.EqualValues(s, 25, sent, "none twice")
			s.carry()
			require.Equal(s, s.wanted(), s.copied())

			s.exec(s.master, "DELETE FROM accounts WHERE id <> 3")
			var has, extra bytes.Buffer
			_, err = operate.DeletedDiffReplica(s.Context(), s.rep, "account", &has, operate.Options{PageSize: 10})
			require.NoError(s, err)
			s.interruptedOnce(func(o operate.Options) error {
				_, err := operate.DeletedDiffMaster(s.Context(), s.box, bytes.NewReader(has.Bytes()), &extra, o)
				return err
			})
			require.Equal(s, 5, strings.Count(extra.String(), "\n"), extra.String())
			var deleted int64
			s.interruptedOnce(func(o operate.Options) error {
				d, err := operate.DeletedSyncReplica(s.Context(), s.rep, bytes.NewReader(extra.Bytes()), o, nil)
				deleted += d.Deleted
				return err
			})
			require.EqualValues(s, 24, deleted)
			require.Equal(s, s.wanted(), s.copied())
		})
	}
}

func TestADiffWithAFilterFindsWhatOnlyTheReplicaHasOfIt(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 4)
		s.carry()
		s.rename(2, "special")
		s.carry()
		s.exec(s.copies, "INSERT INTO account_copies (id, title) VALUES (98, 'special'), (99, 'account')")
		filter, err := operate.ParseFilter(`{"name": "special"}`)
		require.NoError(s, err)
		var found bytes.Buffer
		r, err := operate.Diff(s.Context(), s.box, s.rep, "account", &found,
			operate.DiffOptions{Options: operate.Options{Filter: filter}})
		require.NoError(s, err)
		require.Contains(s, found.String(), "[98]")
		require.EqualValues(s, 1, r.Compared)
		require.EqualValues(s, 1, r.Extra)
		require.EqualValues(s, 1, r.Deleted)
		require.NotContains(s, s.copied(), int64(98))
		require.Contains(s, s.copied(), int64(99), "it is another matter")

		filter, err = operate.ParseFilter(`{"title": "special"}`)
		require.NoError(s, err)
		_, err = operate.DeletedDiffReplica(s.Context(), s.rep, "account", &found, operate.Options{Filter: filter})
		require.ErrorContains(s, err, `"title": the replica does not keep this field`)
	})
}
