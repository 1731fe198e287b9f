package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

const leaseTTL = time.Minute

// withOutbox calls test with the outbox of an empty database, on every kind.
func withOutbox(t *testing.T, test func(t *testing.T, s *mastertest.Outbox)) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		s := newStore(t, db)
		require.NoError(t, s.Make(t.Context()))
		test(t, s)
	})
}

func incarnationOf(t *testing.T, s *mastertest.Outbox) queue.Incarnation {
	t.Helper()
	i, err := s.Incarnation(t.Context())
	require.NoError(t, err)
	return i
}

func enter(t *testing.T, s *mastertest.Outbox) queue.Ownership {
	t.Helper()
	owned, err := s.Enter(t.Context(), "a", leaseTTL)
	require.NoError(t, err)
	return owned
}

func TestTheTablesAreMadeWithAnIncarnation(t *testing.T) {
	seen := make(chan string, 3)
	t.Run("each", func(t *testing.T) {
		withOutbox(t, func(t *testing.T, s *mastertest.Outbox) {
			first := incarnationOf(t, s)
			require.Regexp(t, `^[0-9a-f]{16}-[0-9a-f]{8}$`, first.ID)
			require.WithinDuration(t, time.Now(), first.Drawn, time.Hour)
			require.Equal(t, first, enter(t, s).Incarnation)
			require.NoError(t, s.Make(t.Context()))
			require.Equal(t, first, incarnationOf(t, s))
			seen <- first.ID
		})
	})
	close(seen)
	all := map[string]bool{}
	for id := range seen {
		require.False(t, all[id])
		all[id] = true
	}
}

func TestAnOperatorDrawsAnIncarnation(t *testing.T) {
	withOutbox(t, func(t *testing.T, s *mastertest.Outbox) {
		first := enter(t, s).Incarnation
		drawn, err := s.DrawIncarnation(t.Context(), strings.Repeat("é", 300))
		require.NoError(t, err)
		require.NotEqual(t, first.ID, drawn.ID)
		require.Equal(t, first.ID[:16], drawn.ID[:16], "it is the same database")
		require.True(t, strings.HasPrefix(drawn.Reason, "ééé"))
		renewed, err := s.Renew(t.Context(), "a", leaseTTL)
		require.NoError(t, err)
		require.Equal(t, drawn, renewed.Incarnation, "a relay that runs learns it with its lease")
		require.Equal(t, drawn, enter(t, s).Incarnation, "and draws no other")
	})
}

// A relay was at work while a backup was restored. Two relays notice it, and one incarnation is drawn.
func TestADatabaseThatGoesBackUnderARelayGetsAnotherIncarnation(t *testing.T) {
	withOutbox(t, func(t *testing.T, s *mastertest.Outbox) {
		first := enter(t, s).Incarnation
		other := newStore(t, s.DB())
		_, err := other.Enter(t.Context(), "b", leaseTTL)
		require.NoError(t, err)
		_, err = s.Balance(t.Context(), "a", leaseTTL)
		require.NoError(t, err)
		_, err = other.Balance(t.Context(), "b", leaseTTL)
		require.NoError(t, err)
		restore := dbtest.BackUpOutbox(t, s.DB())
		_, err = s.Renew(t.Context(), "a", leaseTTL)
		require.NoError(t, err)
		_, err = other.Renew(t.Context(), "b", leaseTTL)
		require.NoError(t, err)
		restore()
		_, err = s.Renew(t.Context(), "a", leaseTTL)
		require.ErrorIs(t, err, queue.ErrWentBack)
		_, err = other.Renew(t.Context(), "b", leaseTTL)
		if s.DB().Dialect().Name() == dialect.SQLite {
			require.NoError(t, err, "it has no lanes, and so no lease that tells")
		} else {
			require.ErrorIs(t, err, queue.ErrWentBack)
		}

		drawn := enter(t, s).Incarnation
		require.NotEqual(t, first.ID, drawn.ID)
		require.Contains(t, drawn.Reason, "went back")
		owned, err := other.Enter(t.Context(), "b", leaseTTL)
		require.NoError(t, err)
		require.Equal(t, drawn, owned.Incarnation)
	})
}

// The backup is from before an incarnation was drawn, so its own was used already.
func TestAnIncarnationFromBeforeIsNotUsedAgain(t *testing.T) {
	withOutbox(t, func(t *testing.T, s *mastertest.Outbox) {
		first := enter(t, s).Incarnation
		restore := dbtest.BackUpOutbox(t, s.DB())
		second, err := s.DrawIncarnation(t.Context(), "restored")
		require.NoError(t, err)
		_, err = s.Renew(t.Context(), "a", leaseTTL)
		require.NoError(t, err)
		require.NoError(t, s.LeaveAll(t.Context(), "a"))
		restore()
		third := enter(t, s).Incarnation
		require.NotContains(t, []string{first.ID, second.ID}, third.ID)
	})
}

func placeOf(t *testing.T, s *mastertest.Outbox) string {
	t.Helper()
	found, err := s.Place(t.Context(), "outbox_incarnation", true)
	require.NoError(t, err)
	return found
}

// A dump that is restored makes other tables, while no relay is at work.
func TestARestoredDumpGetsAnotherIncarnation(t *testing.T) {
	withOutbox(t, func(t *testing.T, s *mastertest.Outbox) {
		before := placeOf(t, s)
		if before == "" {
			t.Skip("a copy of an SQLite file does not tell that it is one: an operator does")
		}
		first := enter(t, s).Incarnation
		require.Equal(t, first, enter(t, newStore(t, s.DB())).Incarnation, "a relay that is started again draws none")
		require.Eventually(t, func() bool { // MariaDB counts in seconds
			for _, statement := range []string{
				"DROP TABLE IF EXISTS dump", "CREATE TABLE dump AS SELECT * FROM outbox_incarnation",
				"ALTER TABLE outbox_incarnation RENAME TO old", createLike(s), "DROP TABLE old",
				"INSERT INTO outbox_incarnation SELECT * FROM dump",
			} {
				_, err := s.DB().ExecContext(t.Context(), statement)
				require.NoError(t, err, statement)
			}
			return placeOf(t, s) != before
		}, time.Minute, 100*time.Millisecond)
		require.Equal(t, first.ID, incarnationOf(t, s).ID)

		stores := make(chan string, 4)
		for range cap(stores) {
			go func() {
				owned, err := newStore(t, s.DB()).Enter(t.Context(), time.Now().String(), leaseTTL)
				if err != nil {
					stores <- err.Error()
					return
				}
				stores <- owned.Incarnation.ID
			}()
		}
		drawn := <-stores
		require.Regexp(t, `^[0-9a-f]{16}-[0-9a-f]{8}$`, drawn)
		require.NotEqual(t, first.ID, drawn)
		for range cap(stores) - 1 {
			require.Equal(t, drawn, <-stores, "one is drawn, however many relays look")
		}
		require.Contains(t, incarnationOf(t, s).Reason, "restored copy")
	})
}

// A relay that was at work before, and has no lanes now, sends nothing of the restored dump under
// the name of what was.
func TestARelayThatComesBackToAnotherServerDrawsAnIncarnationAtOnce(t *testing.T) {
	withOutbox(t, func(t *testing.T, s *mastertest.Outbox) {
		if placeOf(t, s) == "" {
			t.Skip("a copy of an SQLite file does not tell that it is one: an operator does")
		}
		first := enter(t, s).Incarnation
		_, err := s.DB().ExecContext(t.Context(), "UPDATE outbox_incarnation SET place = 'elsewhere'")
		require.NoError(t, err)
		require.Equal(t, first, enter(t, s).Incarnation, "it is not asked each time")
		s.PretendServer("another")
		drawn := enter(t, s).Incarnation
		require.NotEqual(t, first.ID, drawn.ID)
		require.Equal(t, drawn, enter(t, newStore(t, s.DB())).Incarnation)
	})
}

func createLike(s *mastertest.Outbox) string {
	if s.DB().Dialect().Name() == dialect.PG {
		return "CREATE TABLE outbox_incarnation (LIKE old INCLUDING ALL)"
	}
	return "CREATE TABLE outbox_incarnation LIKE old"
}
