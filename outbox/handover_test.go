package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

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
