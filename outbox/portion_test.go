package outbox_test

import (
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

type portioned struct {
	bun.BaseModel `bun:"table:portioned"`

	ID int64 `bun:",pk"`
}

// Rows that are deleted and made again through cqrsync while somebody looks for those that came past
// it are not sent once more: each revision of the ledger is a write.
func TestWhatIsWrittenMeanwhileIsNotAdopted(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.NewCreateTable().Model((*portioned)(nil)).Exec(t.Context())
		require.NoError(t, err)
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[portioned](box, "portioned"))
		require.NoError(t, box.Migrate(t.Context()))
		write := func(fn func(ctx context.Context, tx bun.Tx) error) {
			if err := box.RunInTx(context.Background(), nil, fn); err != nil { // until all is written
				t.Error(err)
			}
		}
		const keys, rounds = 5, 30
		var writing sync.WaitGroup
		for id := range int64(keys) {
			writing.Go(func() {
				for range rounds {
					write(func(ctx context.Context, tx bun.Tx) error {
						_, err := tx.NewInsert().Model(&portioned{ID: id + 1}).Exec(ctx)
						return err
					})
					write(func(ctx context.Context, tx bun.Tx) error {
						_, err := tx.NewDelete().Model(&portioned{ID: id + 1}).WherePK().Exec(ctx)
						return err
					})
				}
			})
		}
		ended := make(chan struct{})
		go func() { writing.Wait(); close(ended) }()
		defer writing.Wait()
		for running := true; running; {
			select {
			case <-ended:
				running = false
			default:
			}
			n, err := boxed.Of(box).AdoptUnknown(t.Context(), "portioned", nil)
			require.NoError(t, err)
			require.Zero(t, n)
		}
		var revisions []int64
		require.NoError(t, db.NewSelect().Table("outbox_revisions").Column("revision").Scan(t.Context(), &revisions))
		require.Len(t, revisions, keys)
		for _, revision := range revisions {
			require.Equal(t, int64(2*rounds-1), revision)
		}

		// What comes past it where the ledger has a tombstone is sent as a write is, once.
		past := bun.NewDB(db.DB, db.Dialect())
		_, err = past.NewInsert().Model(&portioned{ID: 2}).Exec(t.Context())
		require.NoError(t, err)
		for _, want := range []int{1, 0} {
			n, err := boxed.Of(box).AdoptUnknown(t.Context(), "portioned", nil)
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
	})
}
