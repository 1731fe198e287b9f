package store

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// letters buries so many dead letters, with identities from first on.
func letters(t *testing.T, s *Store, first, n int) {
	t.Helper()
	_, err := s.DB().ExecContext(t.Context(), s.SQL(`
		INSERT INTO ? (id, lane, model, "key", revision, "signal", pk, data, updated_at, created_at, attempts, last_error, dead_at)
		WITH d AS (SELECT 0 AS n UNION ALL SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 3 UNION ALL SELECT 4
			UNION ALL SELECT 5 UNION ALL SELECT 6 UNION ALL SELECT 7 UNION ALL SELECT 8 UNION ALL SELECT 9)
		SELECT ? + a.n + 10 * b.n + 100 * c.n + 1000 * d.n, 0, 'order', '1', 0, 'SAVE', '1', '{}', `+s.dialect.Now()+`,
			`+s.dialect.Now()+`, 1, '', `+s.dialect.Now()+`
		FROM d AS a CROSS JOIN d AS b CROSS JOIN d AS c CROSS JOIN d
		WHERE a.n + 10 * b.n + 100 * c.n + 1000 * d.n < ?`), s.Table("outbox_dead_letters"), first, n)
	require.NoError(t, err)
}

func TestManyRowsAreEstimated(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		s := newStore(t, db)
		_, err := s.Migrate(t.Context(), Outbox)
		require.NoError(t, err)
		count := func(b bound) Count {
			t.Helper()
			c, err := s.dialect.count(t.Context(), db, string(s.Table("outbox_dead_letters")), "id", b)
			require.NoError(t, err)
			return c
		}
		few := bound{rows: 2_000, pages: 20}
		require.Equal(t, Count{}, count(few))
		letters(t, s, 1, 1_900)
		require.Equal(t, Count{Rows: 1_900}, count(few), "few are counted, however large the table")

		letters(t, s, 100_000, 8_100)
		require.Equal(t, Count{Rows: 10_000}, count(countBound), "what is usual is counted")
		if c := count(few); s.dialect.Name() == "sqlite" {
			require.Equal(t, Count{Rows: 10_000}, c)
		} else {
			require.True(t, c.Estimated)
			require.InEpsilon(t, 10_000, c.Rows, 0.5)
		}

		_, err = s.PurgeDeadLetters(t.Context(), DeadLetterFilter{After: 7})
		require.NoError(t, err)
		require.Equal(t, Count{Rows: 7}, count(few), "few are counted, whatever the table was before")
	})
}

// TestStatusSaysWhatIsEstimated: the numbers of Status are those of count.
func TestStatusSaysWhatIsEstimated(t *testing.T) {
	before := countBound
	t.Cleanup(func() { countBound = before })
	countBound = bound{rows: 100, pages: 1}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		s := newStore(t, db)
		_, err := s.Migrate(t.Context(), Outbox)
		require.NoError(t, err)
		letters(t, s, 1, 1_000)
		st, err := s.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, s.dialect.Name() != "sqlite", st.DeadLettersEstimated)
		require.GreaterOrEqual(t, st.DeadLetters, countBound.rows)
		require.False(t, st.UnsentEstimated)
		require.False(t, st.RetriesEstimated)
	})
}
