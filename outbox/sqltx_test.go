package outbox_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

func TestCaptureInATransactionOfDatabaseSQL(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Order{Number: "a"})
		f.insert(&Note{Slug: "gone"})
		f.take()
		tx, err := f.db.DB.BeginTx(f.Context(), nil)
		require.NoError(f, err)
		for _, statement := range []string{
			"UPDATE orders SET status = 'paid' WHERE id = 1",
			f.db.NewInsert().Model(&Line{OrderID: 1, SKU: "x", Quantity: 2}).Returning("NULL").String(),
			"DELETE FROM notes WHERE slug = 'gone'",
		} {
			require.NoError(f, exec(tx.ExecContext(f.Context(), statement)))
		}
		require.NoError(f, f.box.Capture(f.Context(), tx, &Order{ID: 1}, []Note{{Slug: "gone"}}))
		require.NoError(f, tx.Commit())
		messages := f.take()
		require.ElementsMatch(f, []string{"order 1 1 SAVE", "note gone 1 DELETE"}, summary(messages))
		for _, m := range messages {
			if m.Model == "order" {
				require.Contains(f, string(m.Data), `"status":"paid"`)
				require.Contains(f, string(m.Data), `"sku":"x"`, "relations are read in the transaction too")
			}
		}

		tx, err = f.db.DB.BeginTx(f.Context(), nil)
		require.NoError(f, err)
		require.NoError(f, f.box.Capture(f.Context(), tx, &Order{ID: 1}))
		require.ErrorContains(f, f.box.Capture(f.Context(), tx, &Log{ID: 1}), "not a registered model")
		require.ErrorContains(f, f.box.Capture(f.Context(), nil, &Order{ID: 1}), "transaction is nil")
		require.NoError(f, tx.Rollback())
		require.Empty(f, f.take())
	})
}

func TestCaptureGivesSerializersTheTransaction(t *testing.T) {
	accounts(t, func(f fixture) {
		tx, err := f.db.DB.BeginTx(f.Context(), nil)
		require.NoError(f, err)
		require.NoError(f, exec(tx.ExecContext(f.Context(), f.db.NewInsert().Model(&Account{ID: 1, Name: "a"}).String())))
		require.NoError(f, f.box.Capture(f.Context(), tx, &Account{ID: 1}))
		require.NoError(f, tx.Commit())
		require.JSONEq(f, `{"id":1,"names":["a"]}`, string(f.take()[0].Data))
	}, outbox.Serializer(func(ctx context.Context, tx bun.IDB, rows []*Account) ([]any, error) {
		var names []string
		if err := tx.NewSelect().Model((*Account)(nil)).Column("name").Scan(ctx, &names); err != nil {
			return nil, err
		}
		return []any{map[string]any{"id": rows[0].ID, "names": names}}, nil
	}))
}

// COPY through pgx, in the same transaction as the messages.
func TestCaptureAfterCopyThroughPgx(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.PostgresURL(t)))
	conn, err := f.db.DB.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	tx, err := conn.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, conn.Raw(func(driver any) error {
		_, err := driver.(interface{ Conn() *pgx.Conn }).Conn().CopyFrom(t.Context(), pgx.Identifier{"notes"}, []string{"slug", "text"},
			pgx.CopyFromRows([][]any{{"a", "1"}, {"b", "2"}}))
		return err
	}))
	require.NoError(t, f.box.Capture(t.Context(), tx, []Note{{Slug: "a"}, {Slug: "b"}}))
	require.NoError(t, tx.Commit())
	messages := f.take()
	require.Equal(t, []string{"note a 1 SAVE", "note b 1 SAVE"}, summary(messages))
	require.JSONEq(t, `{"slug":"b","text":"2"}`, string(messages[1].Data))
}
