package operate_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/replica"
)

// Part is of a larger part.
type Part struct {
	bun.BaseModel `bun:"table:parts"`

	ID     int64 `bun:",pk"`
	Within *int64
}

func TestRowsThatPointToRowsOfEarlierBatchesAreLoaded(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.NewCreateTable().Model((*Part)(nil)).ForeignKey(`(within) REFERENCES parts (id)`).Exec(t.Context())
		require.NoError(t, err)
		rep, err := replica.New(db, replica.Config{Queue: "parts", Batch: 3, Workers: 3, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		require.NoError(t, replica.Register[Part](rep, "part"))
		require.NoError(t, rep.Migrate(t.Context()))

		const parts = 100
		dump := []string{"part", `{"cqrs_revision":0,"cqrs_updated":"2026-11-24 12:00:00+00:00","id":1,"within":null}`}
		for id := 2; id <= parts; id++ {
			within := id - 1
			if id == 50 {
				within = 1000 // is nowhere
			}
			dump = append(dump, fmt.Sprintf(`{"cqrs_revision":0,"cqrs_updated":"2026-11-24 12:00:00+00:00","id":%d,"within":%d}`, id, within))
		}
		var bad, reached []int
		loaded, err := operate.Load(t.Context(), rep, strings.NewReader(strings.Join(dump, "\n")), operate.LoadOptions{
			Options: operate.Options{PageSize: 7, ReachedLine: func(lines int) error { reached = append(reached, lines); return nil }},
			BadLine: func(number int, err error) { bad = append(bad, number) },
		})
		require.NoError(t, err)
		require.IsIncreasing(t, reached)
		require.Equal(t, parts, reached[len(reached)-1])
		require.EqualValues(t, parts, loaded.Lines)
		require.EqualValues(t, 49, loaded.Applied)
		require.EqualValues(t, 51, loaded.Bad, "what hangs on the lost one is lost with it")
		require.Equal(t, 51, bad[0], "line 1 is the header")
		require.IsIncreasing(t, bad)
	})
}
