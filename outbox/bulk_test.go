package outbox_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
)

func TestBulkStatementsCaptureEveryRow(t *testing.T) {
	each(t, func(f fixture) {
		const rows = 2500 // more than two batches
		seats := make([]Seat, rows)
		for i := range seats {
			seats[i] = Seat{Row: int64(i % 50), Place: fmt.Sprint(i), Guest: "Ann"}
		}
		f.insert(&seats)
		f.take()
		even := func(q bun.QueryBuilder) bun.QueryBuilder {
			return q.Where("?TableAlias.row % 2 = 0").Where("guest = 'Ann'")
		}
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			n, err := outbox.BulkUpdate[Seat](ctx, tx, even, func(q *bun.UpdateQuery) *bun.UpdateQuery {
				return q.Set("guest = ?", "Bob")
			})
			require.EqualValues(f, rows/2, n)
			return err
		}))
		messages := f.take()
		require.Len(f, messages, rows/2)
		for _, m := range messages {
			require.Contains(f, string(m.Data), "Bob")
		}
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			n, err := outbox.BulkDelete[Seat](ctx, tx, func(q bun.QueryBuilder) bun.QueryBuilder {
				return q.Where("guest = 'Bob'").WhereOr("place = '1'")
			})
			require.EqualValues(f, rows/2+1, n)
			return err
		}))
		require.Len(f, f.take(), rows/2+1)
	})
}

func TestTouchSendsTheEntityAgain(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Order{Number: "a"})
		f.insert(&Seat{Row: 1, Place: "A"})
		f.take()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			require.NoError(f, exec(tx.NewInsert().Model(&Line{OrderID: 1, SKU: "x"}).Exec(ctx)))
			require.NoError(f, outbox.Touch[Seat](ctx, tx, []any{1, "A"}))
			require.ErrorContains(f, outbox.Touch[Seat](ctx, tx, 1), "2 columns")
			require.ErrorContains(f, outbox.Touch[Order](ctx, tx, "1"), "not a string")
			require.ErrorContains(f, outbox.Touch[Log](ctx, tx, 1), "not a registered model")
			return outbox.Touch[Order](ctx, tx, 1)
		}))
		messages := f.take()
		require.Equal(f, []string{"order 1 1 SAVE", `seat [1,"A"] 1 SAVE`}, summary(messages))
		require.Contains(f, string(messages[0].Data), `"sku":"x"`)
	})
}
