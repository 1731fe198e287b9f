package operate_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
)

// listOf is what DeletedDiffMaster writes.
func listOf(at time.Time, keys string) *strings.Reader {
	return strings.NewReader("account," + envelope.FormatTime(at) + "\n" + keys + "\n")
}

// apply is a message of a master whose clock is wrong.
func (s *service) apply(signal envelope.Signal, pk string, revision int64, updated time.Time) {
	s.Helper()
	m := &envelope.Message{Signal: signal, Model: "account", PK: json.RawMessage(pk), Key: pk, Revision: revision, Updated: updated}
	m.Data = envelope.Stamp(json.RawMessage(`{"id":`+pk+`,"name":"theirs"}`), revision, updated)
	results, err := s.rep.Apply(s.Context(), []*envelope.Message{m})
	require.NoError(s, err)
	require.NoError(s, results[0].Err)
	require.True(s, results[0].Applied)
}

var skews = map[string]time.Duration{"behind": -30 * time.Minute, "equal": 0, "ahead": 30 * time.Minute}

// A key that was created again after the listing is kept, and one that was there before is not,
// whatever the master's clock says.
func TestWhatWasCreatedAgainIsKeptWhateverTheMastersClockSays(t *testing.T) {
	each(t, func(s *service) {
		pk := 10
		for name, skew := range skews {
			before, after := s.nextPK(&pk), s.nextPK(&pk)
			s.apply(envelope.Save, before, 0, time.Now().Add(skew))
			s.apply(envelope.Save, after, 0, time.Now().Add(skew))
			var listed bytes.Buffer
			_, err := operate.DeletedDiffReplica(s.Context(), s.rep, "account", &listed, operate.Options{})
			require.NoError(s, err)
			at := s.listedAt(listed.String())
			s.untilLater(at)
			s.apply(envelope.Save, after, 1, time.Now().Add(skew))

			d, err := operate.DeletedSyncReplica(s.Context(), s.rep,
				listOf(at, "["+before+","+after+"]"), operate.Options{}, nil)
			require.NoError(s, err)
			require.Equal(s, operate.Deletion{Model: "account", Deleted: 1, Kept: 1}, d, name)
			require.Len(s, s.copied(), 1, name)
			s.exec(s.copies, "DELETE FROM account_copies")
			s.exec(s.copies, "DELETE FROM replica_revisions")
		}
	})
}

func (s *service) nextPK(pk *int) string {
	*pk++
	text, err := json.Marshal(*pk)
	require.NoError(s, err)
	return string(text)
}

// listedAt is the time in the first line of a listing.
func (s *service) listedAt(listing string) time.Time {
	s.Helper()
	head, _, _ := strings.Cut(listing, "\n")
	listed, err := envelope.ParseTime(strings.Split(head, ",")[1])
	require.NoError(s, err)
	return listed
}

// untilLater waits until the replica's clock, which may tick in milliseconds, is later.
func (s *service) untilLater(listed time.Time) {
	s.Helper()
	require.Eventually(s, func() bool {
		now, err := s.rep.Now(s.Context())
		return err == nil && now.Sub(listed) > 2*time.Millisecond
	}, time.Minute, time.Millisecond)
}

// A list whose time is ahead of the replica's clock would delete what was created since.
func TestAListOfAnotherClockDeletesNothing(t *testing.T) {
	each(t, func(s *service) {
		s.accounts(1, 3)
		s.carry()
		_, err := operate.DeletedSyncReplica(s.Context(), s.rep, listOf(time.Now().Add(30*time.Minute), "[1,2]"), operate.Options{}, nil)
		require.ErrorIs(s, err, operate.ErrListedLater)
		require.ErrorContains(s, err, "deleted-diff-replica")
		require.Len(s, s.copied(), 3)
	})
}

// Each side's clock may be wrong by half an hour, in any direction: nothing is hidden, and nothing
// that the master has is deleted. The clocks are really wrong: the functions that tell the time are
// others.
func TestClocksThatDisagreeHideNothingAndDeleteNothing(t *testing.T) {
	for masterName, masterSkew := range skews {
		for copiesName, copiesSkew := range skews {
			t.Run(masterName+" "+copiesName, func(t *testing.T) {
				t.Parallel()
				s := newService(t, skewed(t, masterSkew), skewed(t, copiesSkew))
				now, err := s.box.Now(t.Context())
				require.NoError(t, err)
				require.WithinDuration(t, time.Now().Add(masterSkew), now, 5*time.Minute)
				s.accounts(1, 5)
				s.carry()
				restore := s.backUp()
				s.rename(1, "lost")
				s.carry()
				restore()
				s.remove(2)
				s.rename(3, "lost on the way")
				s.exec(s.master, "DELETE FROM outbox_messages")

				result := s.repair(operate.DiffOptions{})
				require.EqualValues(t, 2, result.Differing, "%+v", result)
				require.EqualValues(t, 1, result.Ahead)
				require.EqualValues(t, 1, result.Deleted)
				s.carry()
				require.Equal(t, s.wanted(), s.copied())
				require.True(t, s.repair(operate.DiffOptions{Content: true}).Equal())
			})
		}
	}
}

// skewed is a PostgreSQL whose clock_timestamp is off.
func skewed(t *testing.T, by time.Duration) *bun.DB {
	t.Helper()
	u, err := url.Parse(dbtest.PostgresURL(t))
	require.NoError(t, err)
	query := u.Query()
	query.Set("search_path", query.Get("search_path")+",pg_catalog")
	u.RawQuery = query.Encode()
	db := dbtest.Open(t, u.String())
	_, err = db.ExecContext(t.Context(), `CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
		$$ SELECT pg_catalog.clock_timestamp() + interval '`+by.String()+`' $$`)
	require.NoError(t, err)
	return db
}
