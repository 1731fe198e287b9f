package ledger_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// digested are keys that locales, and databases, would bring into other orders than their bytes.
func digested(n int) (keys []string) {
	odd := []string{"a", "B", "ä", "Ä", "-1", "1-", "1 ", "1", "\"", "€", "𝛼", "z\n3 1 x", "_", "A-", "aa", "Ab"}
	keys = append(keys, odd...)
	for i := range n {
		keys = append(keys, fmt.Sprint(i+100))
	}
	return keys
}

func TestADigestIsTheSameOnEveryDatabase(t *testing.T) {
	const n = 9000
	keys := digested(n)
	sorted := slices.Sorted(slices.Values(keys))
	want := map[int]ledger.Digest{}
	for _, limit := range []int{0, 1, 64, 4096, 4097, 8192} {
		sum := ledger.NewSum()
		for i, key := range sorted {
			if limit == 0 || i < limit {
				sum.Add(key, int64(len(key)), "")
				want[limit] = ledger.Digest{Last: key}
			}
		}
		want[limit] = ledger.Digest{Keys: sum.Keys, Sum: sum.String(), Last: want[limit].Last, More: limit > 0}
	}
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own, err := db.New(dbtest.Open(t, newURL(t)), db.Names{})
			require.NoError(t, err)
			_, err = tables.New(own).Migrate(t.Context(), db.Outbox)
			require.NoError(t, err)
			shuffled := slices.Clone(keys)
			rand.New(rand.NewPCG(1, 1)).Shuffle(len(shuffled), func(i, j int) {
				shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
			})
			fill(t, own, shuffled)
			l := ledger.NewRevisions(own)
			for limit, digest := range want {
				got, err := l.Digest(t.Context(), own.DB(), "m", ledger.Range{}, limit)
				require.NoError(t, err)
				require.Equal(t, digest, got, "limit %d", limit)
			}
			part, err := l.Digest(t.Context(), own.DB(), "m", ledger.Range{After: "z", To: "€"}, 0)
			require.NoError(t, err)
			require.Equal(t, 4, part.Keys, "z…, Ä, ä and €") // and not 𝛼, whatever the database sorts by
		})
	}
}

func fill(t *testing.T, own *db.Database, keys []string) {
	t.Helper()
	for chunk := range slices.Chunk(keys, 1000) {
		query := own.SQL(`INSERT INTO ? (model, "key", revision, updated_at) VALUES `)
		args := []any{own.Table("outbox_revisions")}
		for i, key := range chunk {
			if i > 0 {
				query += ", "
			}
			query += "?"
			args = append(args, bun.Tuple([]any{"m", key, len(key), own.Dialect().Time(time.Now())}))
		}
		_, err := own.DB().ExecContext(t.Context(), query, args...)
		require.NoError(t, err)
	}
}
