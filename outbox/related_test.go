package outbox_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// A row that travels inside of an entity's message changes the entity, whoever forgets to say so.
func TestWritesOfRelatedRowsSendTheirEntity(t *testing.T) {
	for name, c := range map[string]struct {
		write func(ctx context.Context, tx bun.Tx) error
		want  []string
	}{
		"insert": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]*Line{line(10, 1), line(11, 1)}).Exec(ctx))
		}, []string{"order 1 1 SAVE"}},
		"update": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Line{ID: 2}).Set("sku = 'x'").WherePK().Exec(ctx))
		}, []string{"order 2 1 SAVE"}},
		"update that moves it": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(line(1, 2)).WherePK().Exec(ctx))
		}, []string{"order 1 1 SAVE", "order 2 1 SAVE"}},
		"delete": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&[]Line{{ID: 1}, {ID: 2}}).WherePK().Exec(ctx))
		}, []string{"order 1 1 SAVE", "order 2 1 SAVE"}},
		"update that moves it by an expression": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Line{ID: 1, OrderID: 1}).Set("order_id = 1 + 1").WherePK().Exec(ctx))
		}, []string{"order 1 1 SAVE", "order 2 1 SAVE"}},
		"update that takes it away": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Line{ID: 1}).WherePK().Exec(ctx))
		}, []string{"order 1 1 SAVE"}},
		"update of no row": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Line{ID: 99}).Set("sku = 'x'").WherePK().Exec(ctx))
		}, []string{}},
		"insert for an entity that is not there": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(line(10, 99)).Exec(ctx))
		}, []string{}},
		"insert with its entity": {func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewInsert().Model(&Order{ID: 3, Number: "c"}).Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewInsert().Model(line(10, 3)).Exec(ctx))
		}, []string{"order 3 0 SAVE"}},
		"delete by where": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model((*Line)(nil)).Where("order_id = 2").WhereOr("sku = 'WHERE'").Exec(ctx))
		}, []string{"order 2 1 SAVE"}},
		"update by where that moves": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model((*Line)(nil)).Set("order_id = (SELECT 2 WHERE 1 = 1)").Where("order_id IN (1)").
				Where("id < (SELECT 100)").Exec(ctx))
		}, []string{"order 1 1 SAVE", "order 2 1 SAVE"}},
		"delete by where that finds none": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model((*Line)(nil)).Where("order_id = 99").Exec(ctx))
		}, []string{}},
		"delete by where, and Touch": {func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewDelete().Model((*Line)(nil)).Where("order_id = 1").Exec(ctx)); err != nil {
				return err
			}
			return outbox.Touch[Order](ctx, tx, 1)
		}, []string{"order 1 1 SAVE"}},
		"raw SQL under Explicit": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(outbox.Explicit(ctx), "UPDATE ? SET quantity = quantity", bun.Ident("lines")))
		}, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(f fixture) {
				f.withLines()
				require.NoError(f, f.inTx(c.write))
				require.Equal(f, c.want, summary(f.take()))
			})
		})
	}
}

func line(id, order int64) *Line { return &Line{ID: id, OrderID: order, SKU: "s"} }

// withLines commits two orders with a line each.
func (f fixture) withLines() {
	f.Helper()
	f.insert(&[]Order{{Number: "a"}, {Number: "b"}})
	lines := &[]Line{{ID: 1, OrderID: 1}, {ID: 2, OrderID: 2}}
	require.NoError(f, exec(f.db.NewInsert().Model(lines).Exec(outbox.Explicit(f.Context()))))
	f.take()
}

func TestWritesOfRelatedRowsThatNameNoEntityAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		f.withLines()
		for name, write := range map[string]func(ctx context.Context, tx bun.Tx) error{
			"raw SQL": func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.ExecContext(ctx, "UPDATE ? SET quantity = 7", bun.Ident("lines")))
			},
			"insert by an expression": func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(line(20, 2)).Value("order_id", "1").Exec(ctx))
			},
			"by table": func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewUpdate().Table("lines").Set("quantity = 7").Where("id = 1").Exec(ctx))
			},
		} {
			var refused *outbox.RefusedError
			require.ErrorAs(f, f.inTx(write), &refused, name)
			require.Contains(f, refused.Fix, "outbox.Touch[Order]", name)
			require.Empty(f, f.take())
		}
		var refused *outbox.RefusedError
		require.ErrorAs(f, exec(f.db.NewInsert().Model(&Line{ID: 5, OrderID: 1}).Exec(f.Context())), &refused, "outside of RunInTx")
		require.NoError(f, exec(f.db.NewInsert().Model(&Line{ID: 5, OrderID: 1}).Exec(outbox.Explicit(f.Context()))))
	})
}

// A message is the state at commit, whatever changed the row after the statement that wrote it
// whole.
func TestNothingStaleIsRecorded(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t)).withItems()
	f.raw(`CREATE TABLE parts (id bigint, item bigint);
		CREATE FUNCTION rename() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN UPDATE items SET name = name || '+' WHERE id = NEW.item; RETURN NEW; END $$;
		CREATE TRIGGER t AFTER INSERT ON parts FOR EACH ROW EXECUTE FUNCTION rename();
		CREATE FUNCTION called(i bigint) RETURNS void LANGUAGE sql AS $$ UPDATE items SET name = 'called' WHERE id = i $$;
		CREATE PROCEDURE proceed(i bigint) LANGUAGE sql AS $$ UPDATE items SET name = 'proceeded' WHERE id = i $$`)
	for name, c := range map[string]struct {
		change func(ctx context.Context, tx bun.Tx) error
		want   any
	}{
		"a trigger of another table": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(ctx, "INSERT INTO parts (id, item) VALUES (1, 1), (2, 1)"))
		}, "a++"},
		"SELECT f()": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("SELECT called(1)").Exec(ctx))
		}, "called"},
		"CALL": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("CALL proceed(1)").Exec(outbox.Explicit(ctx)))
		}, "proceeded"},
		"past bun": {func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.Tx.ExecContext(ctx, "UPDATE items SET name = NULL"))
		}, nil},
		"nothing": {func(context.Context, bun.Tx) error { return nil }, "a"},
	} {
		for _, write := range []func(ctx context.Context, tx bun.Tx) error{
			func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "a"}).Exec(ctx))
			},
			func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "a"}).WherePK().Exec(ctx))
			},
		} {
			data := f.sent(func(ctx context.Context, tx bun.Tx) {
				require.NoError(t, write(ctx, tx))
				require.NoError(t, c.change(ctx, tx), name)
			})
			require.Equal(t, c.want, data["name"], name)
		}
		f.raw("DELETE FROM items")
	}
}

// Triggers that run at the commit write before the flush reads, and a trigger that was made a
// moment ago is seen.
func TestTriggersAreSeenWhenTheyAreMade(t *testing.T) {
	for name, trigger := range map[string]string{
		"deferred": `CREATE CONSTRAINT TRIGGER t AFTER INSERT OR UPDATE ON items DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.name <> 'late') EXECUTE FUNCTION late()`,
		"at once": `CREATE TRIGGER t AFTER INSERT OR UPDATE ON items FOR EACH ROW WHEN (NEW.name <> 'late') EXECUTE FUNCTION late()`,
		"of another table": `CREATE TABLE parts (id bigint); CREATE CONSTRAINT TRIGGER t AFTER INSERT ON parts
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION late()`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, dbtestPostgres(t)).withItems()
			f.insert(&Item{ID: 1, Name: "a"})
			f.insert(&[]Item{{ID: 2, Name: "a"}, {ID: 3, Name: "a"}})
			f.take()
			f.raw(`CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN UPDATE items SET name = 'late'; RETURN NEW; END $$; ` + trigger)
			data := f.sent(func(ctx context.Context, tx bun.Tx) {
				require.NoError(t, exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "b"}).WherePK().Exec(ctx)))
				if name == "of another table" {
					require.NoError(t, exec(tx.ExecContext(ctx, "INSERT INTO parts VALUES (1)")))
				}
			})
			require.Equal(t, "late", data["name"])
		})
	}
	t.Run("a column that changed its type", func(t *testing.T) {
		f := newFixture(t, dbtestPostgres(t)).withItems()
		f.insert(&Item{ID: 1, Name: "a"})
		f.take()
		f.raw("ALTER TABLE items ALTER COLUMN name TYPE char(4)")
		data := f.sent(func(ctx context.Context, tx bun.Tx) {
			require.NoError(t, exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "b"}).WherePK().Exec(ctx)))
		})
		require.Equal(t, "b   ", data["name"])
	})
}

// Of the other kinds of relation only a new link says whose it is, and a new row at the other end
// belongs to nobody yet.
func TestOtherKindsOfRelationsNameTheirEntityOrAskForIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newLibrary(t, db)
		f.insert(&Author{ID: 7, Name: "Ann"})
		f.insert(&Book{ID: 1, AuthorID: 7})
		f.insert(&Tag{ID: 3, Word: "red"})
		f.take()
		f.insert(&BookTag{BookID: 1, TagID: 3})
		require.Equal(f, []string{"book 1 1 SAVE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&BookTag{BookID: 1, TagID: 3}).WherePK().Exec(ctx))
		}))
		require.Equal(f, []string{"book 1 2 SAVE"}, summary(f.take()))
		rename := func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Author{ID: 7, Name: "Bea"}).WherePK().Exec(ctx))
		}
		var refused *outbox.RefusedError
		require.ErrorAs(f, f.inTx(rename), &refused)
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return errors.Join(rename(ctx, tx), outbox.Touch[Book](ctx, tx, 1))
		}))
		messages := f.take()
		require.Equal(f, []string{"book 1 3 SAVE"}, summary(messages))
		require.Contains(f, string(messages[0].Data), "Bea")
	})
}
