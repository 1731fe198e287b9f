package applied_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/tables"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newTables makes the replica's tables in an empty database.
func newTables(t *testing.T, bunDB *bun.DB) *applied.Tables {
	t.Helper()
	d, err := db.New(bunDB, db.Names{})
	require.NoError(t, err)
	_, err = tables.New(d).Migrate(t.Context(), db.Replica)
	require.NoError(t, err)
	return applied.New(d)
}

func TestMastersAreNotedAndAddedUp(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		s := newTables(t, bunDB)
		clock := time.Date(2026, 11, 22, 12, 0, 0, 1000, time.UTC)
		require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{{Model: "b", Incarnation: "1"}, {Model: "a", Incarnation: "1", Clock: clock}}))
		require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{
			{Model: "a", Incarnation: "1", Clock: clock.Add(-time.Hour), Returns: 2, Overtaken: 3},
			{Model: "b", Incarnation: "2"},
		}))
		require.NoError(t, s.NoteMasters(t.Context(), []applied.Master{{Model: "a", Incarnation: "1", Clock: clock, Returns: 1, Overtaken: 1}}))
		masters, now, err := s.Masters(t.Context())
		require.NoError(t, err)
		require.Len(t, masters, 3)
		first := masters[0]
		require.Equal(t, applied.Master{
			Model: "a", Incarnation: "1", First: first.First, Last: first.Last, Clock: clock, Returns: 3, Overtaken: 4,
		}, first)
		require.False(t, first.Last.Before(first.First))
		require.False(t, now.Before(first.Last))
		require.True(t, masters[1].Clock.IsZero())
	})
}
