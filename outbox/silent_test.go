package outbox_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// An INSERT whose keys can be mistaken for others is captured by what it stored, or refused.
func TestKeysOfAnInsertAreNotThoseOfAnotherRow(t *testing.T) {
	for name, c := range map[string]struct {
		insert func(tx bun.Tx) *bun.InsertQuery
		scans  bool
		want   []string // nil: refused
	}{
		"stale id, skipping, scanned elsewhere": {func(tx bun.Tx) *bun.InsertQuery {
			return tx.NewInsert().Model(&Order{ID: 1, Number: "n"}).ExcludeColumn("id").Ignore().Returning("id")
		}, true, []string{"order 3 1 SAVE"}},
		"a drawn key beside a taken one, nothing returned": {func(tx bun.Tx) *bun.InsertQuery {
			return tx.NewInsert().Model(&[]Order{{ID: 1, Number: "x"}, {Number: "n"}}).Ignore().Returning("NULL")
		}, false, nil},
		"a variable to scan into, and nothing returned": {func(tx bun.Tx) *bun.InsertQuery {
			return tx.NewInsert().Model(&Order{ID: 9, Number: "n"}).Returning("")
		}, true, []string{"order 9 0 SAVE"}},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(f fixture) {
				f.insert(&[]Order{{Number: "a"}, {Number: "b"}})
				f.take()
				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					if !c.scans {
						return exec(c.insert(tx).Exec(ctx))
					}
					var id int64
					_, _ = c.insert(tx).Exec(ctx, &id) // there may be no rows in the result set
					return nil
				})
				if c.want == nil {
					var refused *outbox.RefusedError
					require.ErrorAs(f, err, &refused)
				} else {
					require.NoError(f, err)
				}
				require.ElementsMatch(f, c.want, summary(f.take()))
			})
		})
	}
}

func TestAnExpressionIsNotTheKeyThatWasDrawnLast(t *testing.T) {
	each(t, func(f fixture) {
		err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewInsert().Model(&Order{Number: "a"}).Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewInsert().Model(&Order{Number: "b"}).Value("id", "41").Returning("NULL").Exec(ctx))
		})
		if f.db.Dialect().Name() == dialect.SQLite { // which says what it stored
			require.NoError(f, err)
			require.Len(f, f.take(), 2)
			return
		}
		var refused *outbox.RefusedError
		require.ErrorAs(f, err, &refused)
	})
}

func TestIgnoreDoesNotHideThatAKeyWasCut(t *testing.T) {
	each(t, func(f fixture) {
		if f.db.Dialect().Name() != dialect.MySQL {
			return // only MariaDB cuts values under IGNORE
		}
		f.raw("CREATE TABLE codes (code varchar(4) PRIMARY KEY, name varchar(20))")
		require.NoError(f, outbox.Register[Code](f.box, "code"))
		f.insert(&Code{Code: "abcd"})
		var refused *outbox.RefusedError
		require.ErrorAs(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]Code{{Code: "too long"}, {Code: "abcd"}}).Ignore().Exec(ctx))
		}), &refused)
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]Code{{Code: "new"}, {Code: "abcd"}}).Ignore().Exec(ctx))
		}))
	})
}

func TestOtherRowsUnderTheNameOfBulkAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		if f.db.Dialect().Name() == dialect.MySQL {
			return // MariaDB's Bulk is refused as a write of several tables
		}
		f.insert(&[]Order{{Number: "a"}, {Number: "b"}})
		var refused *outbox.RefusedError
		require.ErrorAs(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().With("_data", tx.NewValues(&[]Order{{ID: 2}})).Model(&[]Order{{ID: 1}}).
				TableExpr("_data").Set("status = 'y'").Where(`"order"."id" = _data."id"`).Exec(ctx))
		}), &refused)
	})
}

type Cupboard struct {
	bun.BaseModel `bun:"table:racks"`

	ID      int64  `bun:",pk"`
	Volumes []*Cup `bun:"rel:has-many,join:id=rack_id"`
}

type Cup struct {
	bun.BaseModel `bun:"table:volumes"`

	ID     int64 `bun:",pk"`
	RackID int64
}

// Rows of a relation may be a registered model's, too: both change.
func TestARegisteredRowOfARelationSendsItsEntity(t *testing.T) {
	each(t, func(f fixture) {
		f.raw("CREATE TABLE racks (id bigint PRIMARY KEY); CREATE TABLE volumes (id bigint PRIMARY KEY, rack_id bigint)")
		require.NoError(f, outbox.Register[Cupboard](f.box, "rack", outbox.Relations("Volumes")))
		require.NoError(f, outbox.Register[Cup](f.box, "volume"))
		f.insert(&[]Cupboard{{ID: 1}, {ID: 2}})
		f.take()
		f.insert(&Cup{ID: 1, RackID: 1})
		require.ElementsMatch(f, []string{"volume 1 0 SAVE", "rack 1 1 SAVE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Cup{ID: 1, RackID: 2}).WherePK().Exec(ctx))
		}))
		require.ElementsMatch(f, []string{"volume 1 1 SAVE", "rack 1 2 SAVE", "rack 2 1 SAVE"}, summary(f.take()))
	})
}

// A key that changes its spelling is another key to replicas, although the database takes both for
// the same.
func TestARenamedSpellingDeletesTheOldOne(t *testing.T) {
	each(t, func(f fixture) {
		if f.db.Dialect().Name() == dialect.PG {
			return // a char(8) has one stored spelling
		}
		codesOf(foldingTypes)(f)
		f.insert(&Code{Code: "other"})
		f.take()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.ExecContext(outbox.Explicit(ctx), "UPDATE codes SET code = 'ABC' WHERE code = 'Abc'")); err != nil {
				return err
			}
			if err := f.box.Deleted(ctx, tx, &Code{Code: "Abc"}); err != nil {
				return err
			}
			if err := f.box.Saved(ctx, tx, &Code{Code: "ABC"}); err != nil {
				return err
			}
			return exec(tx.NewDelete().Model(&Code{Code: "OTHER"}).WherePK().Exec(ctx)) // looks spellings up
		}))
		require.ElementsMatch(f, []string{"code Abc 1 DELETE", "code ABC 1 SAVE", "code other 1 DELETE"}, summary(f.take()))
	})
}

// An entity that was written by itself says nothing of whose rows a WHERE found.
func TestAnotherEntityDoesNotStandForTheTouchedOne(t *testing.T) {
	each(t, func(f fixture) {
		f.withLines()
		write := func(touch bool) error {
			return f.inTx(func(ctx context.Context, tx bun.Tx) error {
				order := &Order{ID: 1, Status: "paid"}
				if err := exec(tx.NewUpdate().Model(order).Column("status").WherePK().Exec(ctx)); err != nil {
					return err
				}
				raw := tx.NewRaw("DELETE FROM ? WHERE order_id = 2", bun.Ident("lines"))
				if err := exec(raw.Exec(ctx)); err != nil || !touch {
					return err
				}
				return outbox.Touch[Order](ctx, tx, 2)
			})
		}
		var refused *outbox.RefusedError
		require.ErrorAs(f, write(false), &refused)
		require.NoError(f, write(true))
		require.Equal(f, []string{"order 1 1 SAVE", "order 2 1 SAVE"}, summary(f.take()))
	})
}

func TestATableThatReplacesRowsIsRefused(t *testing.T) {
	f := newFixture(t, dbtestSQLite(t))
	f.raw("CREATE TABLE items (id bigint PRIMARY KEY, name text UNIQUE ON CONFLICT REPLACE)")
	require.NoError(t, outbox.Register[Item](f.box, "item"))
	var refused *outbox.RefusedError
	require.ErrorAs(t, f.inTx(insertItem), &refused)
	require.Contains(t, refused.Reason, "ON CONFLICT REPLACE")
}

func dbtestSQLite(t *testing.T) *bun.DB { return dbtest.Open(t, dbtest.SQLiteURL(t)) }
