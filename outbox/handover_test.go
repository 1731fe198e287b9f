package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

func TestAHandoverIsOfferedWhatWasCommitted(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Note{Slug: "nobody asked", Text: "x"})
		offers := f.box.Handover().Offers()
		require.Equal(f, offers, f.box.Handover().Offers(), "there is one")

		before := time.Now()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if _, err := tx.NewInsert().Model(&Note{Slug: "a", Text: "1"}).Exec(ctx); err != nil {
				return err
			}
			_, err := tx.NewInsert().Model(&Order{Number: "7", Status: "new"}).Exec(ctx)
			return err
		}))
		o := <-offers
		require.False(f, o.Rest)
		require.True(f, o.Before.After(before))
		var got []message
		for _, m := range o.Messages {
			require.NotZero(f, m.ID)
			got = append(got, message{m.Model, m.Key, m.Revision, m.After, m.Signal, m.PK, m.Data})
		}
		require.Equal(f, f.take()[1:], got)

		failed := errors.New("no")
		require.ErrorIs(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewUpdate().Model(&Note{Slug: "a", Text: "2"}).WherePK().Exec(ctx)
			return errors.Join(err, failed)
		}), failed)
		_, err := f.box.Sync(f.Context(), "note", []json.RawMessage{json.RawMessage(`"a"`)}, outbox.SyncOptions{})
		require.NoError(f, err)
		o = <-offers
		require.True(f, o.Rest, "what was rolled back is not offered, and a SYNC is to be read")
		require.Empty(f, o.Messages)
		require.Empty(f, offers)
	})
}

// The pool has one connection: to prepare must not take another while a transaction waits.
func TestAPreparedBoxWritesLikeAnyOther(t *testing.T) {
	each(t, func(f fixture) {
		db := bun.NewDB(f.db.DB, f.db.Dialect())
		box, err := outbox.New(db, outbox.Config{Prepare: true})
		require.NoError(f, err)
		require.NoError(f, outbox.Register[Note](box, "note"))
		f.db.SetMaxOpenConns(1)
		for _, handover := range []bool{false, true} {
			if handover {
				box.Handover()
			}
			for revision := range int64(2) {
				var got []message
				for i, b := range []*outbox.Box{f.box, box} {
					row := &Note{Slug: fmt.Sprint(handover, i), Text: "x"}
					require.NoError(f, b.RunInTx(f.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
						if revision == 0 {
							_, err = tx.NewInsert().Model(row).Exec(ctx)
						} else {
							_, err = tx.NewUpdate().Model(row).WherePK().Exec(ctx)
						}
						return err
					}))
					m := f.take()
					require.Len(f, m, 1)
					require.Equal(f, row.Slug, m[0].Key)
					m[0].Key, m[0].PK, m[0].Data = "", nil, nil
					got = append(got, m[0])
				}
				require.Equal(f, got[0], got[1])
				require.Equal(f, revision, got[1].Revision)
			}
		}
		if db.Dialect().Name() == dialect.PG {
			statements, err := db.NewSelect().Table("pg_prepared_statements").Where("statement LIKE '%outbox_record%'").Count(f.Context())
			require.NoError(f, err)
			require.EqualValues(f, 1, statements)
		}
	})
}
