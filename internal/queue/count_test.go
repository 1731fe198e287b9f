package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// letters buries so many dead letters, with identities from first on.
func letters(t *testing.T, s *mastertest.Outbox, first, n int) {
	t.Helper()
	_, err := s.DB().ExecContext(t.Context(), s.SQL(`
		INSERT INTO ? (id, lane, model, "key", revision, "signal", pk, data, updated_at, created_at, attempts, last_error, dead_at)
		WITH d AS (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
			UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)
		SELECT ? + a.n + 10 * b.n + 100 * c.n + 1000 * d.n, 0, 'order', '1', 0, 'SAVE', '1', '{}', `+s.Dialect().Now()+`,
			`+s.Dialect().Now()+`, 1, '', `+s.Dialect().Now()+`
		FROM d AS a CROSS JOIN d AS b CROSS JOIN d AS c CROSS JOIN d
		WHERE a.n + 10 * b.n + 100 * c.n + 1000 * d.n < ?`), s.Table("outbox_dead_letters"), first, n)
	require.NoError(t, err)
}

func TestManyRowsAreEstimated(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newStore(t, bunDB)
		require.NoError(t, s.Make(t.Context()))
		count := func(b queue.Bound) queue.Count {
			t.Helper()
			c, err := s.CountUpTo(t.Context(), s.Table("outbox_dead_letters"), b)
			require.NoError(t, err)
			return c
		}
		few := queue.BoundOf(2_000, 20)
		require.Equal(t, queue.Count{}, count(few))
		letters(t, s, 1, 1_900)
		require.Equal(t, queue.Count{Rows: 1_900}, count(few), "few are counted, however large the table")

		letters(t, s, 100_000, 8_100)
		require.Equal(t, queue.Count{Rows: 10_000}, count(*queue.CountBound), "what is usual is counted")
		if c := count(few); s.Dialect().Name() == "sqlite" {
			require.Equal(t, queue.Count{Rows: 10_000}, c)
		} else {
			require.True(t, c.Estimated)
			require.InEpsilon(t, 10_000, c.Rows, 0.5)
		}

		_, err := s.PurgeDeadLetters(t.Context(), db.DeadLetterFilter{After: 7})
		require.NoError(t, err)
		require.Equal(t, queue.Count{Rows: 7}, count(few), "few are counted, whatever the table was before")
	})
}

// TestStatusSaysWhatIsEstimated: the numbers of Status are those of count.
func TestStatusSaysWhatIsEstimated(t *testing.T) {
	before := *queue.CountBound
	t.Cleanup(func() { *queue.CountBound = before })
	*queue.CountBound = queue.BoundOf(100, 1)
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newStore(t, bunDB)
		require.NoError(t, s.Make(t.Context()))
		letters(t, s, 1, 1_000)
		st, err := s.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, s.Dialect().Name() != "sqlite", st.DeadLettersEstimated)
		require.GreaterOrEqual(t, st.DeadLetters, int64(100))
		require.False(t, st.UnsentEstimated)
		require.False(t, st.RetriesEstimated)
	})
}
