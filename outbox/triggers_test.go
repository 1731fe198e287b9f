package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// withTriggers are items and orders that the database captures.
func (f fixture) withTriggers() fixture {
	f.Helper()
	box, err := outbox.New(f.db, outbox.Config{})
	require.NoError(f, err)
	require.NoError(f, exec(f.db.NewCreateTable().Model((*Item)(nil)).Exec(f.Context())))
	require.NoError(f, outbox.Register[Item](box, "item", outbox.Triggers()))
	require.NoError(f, outbox.Register[Order](box, "order", outbox.Relations("Lines"), outbox.Triggers()))
	require.NoError(f, outbox.Register[Seat](box, "seat", outbox.Triggers()))
	require.NoError(f, box.Migrate(f.Context()))
	require.NoError(f, box.Check(f.Context()))
	f.box = box
	return f
}

// bare is a fixture whose bun.DB has no other box.
func eachBare(t *testing.T, test func(f fixture)) {
	each(t, func(f fixture) {
		f.db = bun.NewDB(f.db.DB, f.db.Dialect())
		test(f.withTriggers())
	})
}

// A table with triggers is written in any way, and each way is sent once.
func TestTriggersNoteWhatASessionWrites(t *testing.T) {
	eachBare(t, func(f fixture) {
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewRaw("INSERT INTO items (id, name) VALUES (1, 'a'), (2, 'b')").Exec(ctx)); err != nil {
				return err
			}
			if err := exec(tx.NewUpdate().Model((*Item)(nil)).Set("name = 'c'").Where("id = 2").Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewInsert().Model(&Item{ID: 3, Name: "d"}).Exec(ctx))
		}))
		require.Equal(f, []string{"item 1 0 SAVE", "item 2 0 SAVE", "item 3 0 SAVE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("DELETE FROM items WHERE name <> 'a'").Exec(ctx))
		}))
		require.Equal(f, []string{"item 2 1 DELETE", "item 3 1 DELETE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("UPDATE items SET id = 7").Exec(ctx))
		}))
		require.ElementsMatch(f, []string{"item 1 1 DELETE", "item 7 0 SAVE"}, summary(f.take()))
		swept, err := f.box.Sweep(f.Context())
		require.NoError(f, err)
		require.Zero(f, swept)
		require.Empty(f, f.take())
	})
}

func TestTriggersNoteRowsOfRelations(t *testing.T) {
	eachBare(t, func(f fixture) {
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			order := &Order{Number: "a"}
			if err := exec(tx.NewInsert().Model(order).Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewRaw("INSERT INTO ? (id, order_id) VALUES (1, 1)", bun.Ident("lines")).Exec(ctx))
		}))
		messages := f.take()
		require.Equal(f, []string{"order 1 0 SAVE"}, summary(messages))
		require.Contains(f, string(messages[0].Data), `"lines":[{"id":1`)
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("DELETE FROM ?", bun.Ident("lines")).Exec(ctx))
		}))
		require.Equal(f, []string{"order 1 1 SAVE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error { // the row goes first, then what belongs to it
			return errors.Join(exec(tx.NewRaw("INSERT INTO ? (id, order_id) VALUES (2, 1)", bun.Ident("lines")).Exec(ctx)),
				exec(tx.NewRaw("DELETE FROM orders").Exec(ctx)), exec(tx.NewRaw("DELETE FROM ?", bun.Ident("lines")).Exec(ctx)))
		}))
		require.Equal(f, []string{"order 1 2 DELETE"}, summary(f.take()))
	})
}

// What another program writes is swept.
func TestASweepSendsWhatOthersWrote(t *testing.T) {
	eachBare(t, func(f fixture) {
		f.raw("INSERT INTO items (id, name) VALUES (1, 'a'), (2, 'b')")
		f.raw("DELETE FROM items WHERE id = 1")
		_, err := f.db.DB.ExecContext(f.Context(), f.db.QueryGen().FormatQuery("INSERT INTO ? (?, place) VALUES (7, 'A\"b')",
			bun.Ident("seats"), bun.Ident("row")))
		require.NoError(f, err)
		swept, err := f.box.Sweep(f.Context())
		require.NoError(f, err)
		require.Equal(f, 3, swept)
		require.ElementsMatch(f, []string{"item 2 0 SAVE", `seat [7,"A\"b"] 0 SAVE`}, summary(f.take()))
		f.raw("UPDATE items SET name = 'x'")
		f.raw("DELETE FROM items")
		_, err = f.box.Sweep(f.Context())
		require.NoError(f, err)
		require.Equal(f, []string{"item 2 1 DELETE"}, summary(f.take()))
	})
}

// A service that relies on triggers which are gone does not commit.
func TestTriggersThatAreGoneAreMissed(t *testing.T) {
	eachBare(t, func(f fixture) {
		write := func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("INSERT INTO items (id, name) VALUES (1, 'a')").Exec(ctx))
		}
		switch f.db.Dialect().Name() {
		case dialect.PG:
			f.raw("ALTER TABLE items DISABLE TRIGGER USER")
		default:
			f.dropTriggers("items")
		}
		require.ErrorContains(f, f.inTx(write), "its triggers marked none")
		require.Error(f, f.box.Check(f.Context()))
		require.NoError(f, f.box.Migrate(f.Context()))
		require.NoError(f, f.box.Check(f.Context()))
		require.NoError(f, f.inTx(write))
		require.Equal(f, []string{"item 1 0 SAVE"}, summary(f.take()))
	})
}

func (f fixture) dropTriggers(table string) {
	f.Helper()
	query := "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?"
	if f.db.Dialect().Name() == dialect.MySQL {
		query = "SELECT trigger_name FROM information_schema.triggers WHERE event_object_table = ? AND trigger_schema = database()"
	}
	var names []string
	require.NoError(f, f.db.NewRaw(query, table).Scan(f.Context(), &names))
	for _, name := range names {
		f.raw("DROP TRIGGER " + name)
	}
}
