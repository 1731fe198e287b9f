package applied_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/ledger"
)

// settled brings keys of model order to their revision, and those named in deleted to a tombstone.
func (s *suite) settled(t *testing.T, revisions map[string]int64, deleted ...string) {
	t.Helper()
	gone := map[string]bool{}
	for _, key := range deleted {
		gone[key] = true
	}
	var keys []applied.Key
	for key := range revisions {
		keys = append(keys, applied.Key{Model: "order", Key: key})
	}
	require.NoError(t, s.settle(t.Context(), keys, func(a applied.Applied) applied.Applied {
		a.Revision, a.Deleted = revisions[a.Key.Key], gone[a.Key.Key]
		return a
	}))
}

func listsLiveKeys(t *testing.T, s *suite) {
	s.settled(t, map[string]int64{"1": 0, "10": 7, "100": 1 << 40, "2": 3, "3": 9}, "3")
	of := func(r ledger.Range, limit int) []ledger.KeyRevision {
		page, err := ledger.NewReplica(s.Database).Live(t.Context(), s.DB(), "order", r, limit)
		require.NoError(t, err)
		pairs, err := ledger.NewReplica(s.Database).Pairs(t.Context(), s.DB(), "order", r, limit)
		require.NoError(t, err)
		require.Equal(t, ledger.JoinPairs(page), pairs)
		if len(page) > 0 {
			require.Equal(t, page[len(page)-1].Key, pairs.Last())
		}
		return page
	}
	one, ten, hundred, two := ledger.KeyRevision{Key: "1"}, ledger.KeyRevision{Key: "10", Revision: 7},
		ledger.KeyRevision{Key: "100", Revision: 1 << 40}, ledger.KeyRevision{Key: "2", Revision: 3}
	require.Equal(t, []ledger.KeyRevision{one, ten, hundred, two}, of(ledger.Range{}, 10), "in the order of texts, without the deleted")
	require.Equal(t, []ledger.KeyRevision{one, ten}, of(ledger.Range{}, 2))
	require.Equal(t, []ledger.KeyRevision{hundred, two}, of(ledger.Range{After: "10"}, 10))
	require.Equal(t, []ledger.KeyRevision{ten, hundred}, of(ledger.Range{From: "10", To: "100"}, 10))
	require.Empty(t, of(ledger.Range{After: "2"}, 10))
	pairs, err := ledger.NewReplica(s.Database).Pairs(t.Context(), s.DB(), "order", ledger.Range{}, 10)
	require.NoError(t, err)
	require.Equal(t, ledger.Pairs{Text: "1,0],[10,7],[100,1099511627776],[2,3", Count: 4}, pairs)
}

func comparesLedgerAndTable(t *testing.T, s *suite) {
	for _, statement := range []string{
		"CREATE TABLE orders (id integer PRIMARY KEY)", "INSERT INTO orders VALUES (1), (20), (300)",
	} {
		_, err := s.DB().ExecContext(t.Context(), statement)
		require.NoError(t, err)
	}
	speaks := func() bool {
		yes, err := ledger.NewReplica(s.Database).SpeaksFor(t.Context(), s.DB(), "order", "orders", "id")
		require.NoError(t, err)
		return yes
	}
	require.False(t, speaks(), "the ledger is empty")
	s.settled(t, map[string]int64{"1": 0, "20": 5, "300": 2, "4": 1}, "4")
	able := s.DB().Dialect().Name().String() != "sqlite" // which has no cheap way to tell
	require.Equal(t, able, speaks())

	undone := context.Canceled
	for _, past := range []string{ // what somebody does past the ledger
		"DELETE FROM orders WHERE id = 20", "INSERT INTO orders VALUES (4)", "UPDATE orders SET id = 21 WHERE id = 20",
	} {
		err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.ExecContext(ctx, past)
			require.NoError(t, err)
			yes, err := ledger.NewReplica(s.Database).SpeaksFor(ctx, tx, "order", "orders", "id")
			require.NoError(t, err)
			require.False(t, yes, past)
			return undone
		})
		require.ErrorIs(t, err, undone)
	}
	require.Equal(t, able, speaks())
}
