package outbox_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// statementCase is one way to write a tracked table. The table holds order 1 (number "a", status
// "new") and order 2.
type statementCase struct {
	name    string
	write   func(ctx context.Context, tx bun.Tx) error
	want    []string // messages, if captured
	refused string   // part of the error, if refused; "a|b" where databases differ in why
}

func exec(_ any, err error) error { return err }

var statements = []statementCase{
	{
		name: "insert a row",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Order{Number: "c"}).Exec(ctx))
		},
		want: []string{"order 3 0 SAVE"},
	},
	{
		name: "insert a slice of rows",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]Order{{Number: "c"}, {Number: "d"}}).Exec(ctx))
		},
		want: []string{"order 3 0 SAVE", "order 4 0 SAVE"},
	},
	{
		name: "insert a slice of pointers",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]*Order{{Number: "c"}, {Number: "d"}}).Exec(ctx))
		},
		want: []string{"order 3 0 SAVE", "order 4 0 SAVE"},
	},
	{
		name: "insert with a composite key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Seat{Row: 7, Place: "A\"b", Guest: "Ann"}).Exec(ctx))
		},
		want: []string{`seat [7,"A\"b"] 0 SAVE`},
	},
	{
		name: "insert of a model without Tracked",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Note{Slug: "n", Text: "t"}).Exec(ctx))
		},
		want: []string{"note n 0 SAVE"},
	},
	{
		name: "insert on conflict do nothing, nothing inserted",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Order{Number: "a"}).On("CONFLICT DO NOTHING").Returning("NULL").Exec(ctx))
		},
	},
	{
		name: "upsert by primary key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Order{ID: 1, Number: "a", Status: "paid"}).
				On("CONFLICT (id) DO UPDATE").Set("status = EXCLUDED.status").Exec(ctx))
		},
		want: []string{"order 1 1 SAVE"},
	},
	{
		name: "upsert by another unique column",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Order{ID: 9, Number: "a", Status: "paid"}).
				On("CONFLICT (number) DO UPDATE").Set("status = EXCLUDED.status").Exec(ctx))
		},
		refused: "conflict target is not the primary key",
	},
	{
		name: "insert a map",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&map[string]any{"number": "m"}).Table("orders").Exec(ctx))
		},
		refused: "no bun model",
	},
	{
		name: "insert from a select",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Order{}).Column("number").TableExpr("(SELECT 'z') AS s").Exec(ctx))
		},
		refused: "rows of a SELECT",
	},
	{
		name: "update by primary key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1, Number: "a", Status: "paid"}).WherePK().Exec(ctx))
		},
		want: []string{"order 1 1 SAVE"},
	},
	{
		name: "update a column with a further condition",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1}).Set("status = 'paid'").
				Where("status = 'new'").WhereOr("number = 'b'").WherePK().Exec(ctx))
		},
		want: []string{"order 1 1 SAVE"},
	},
	{
		name: "update that matches no row",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 99, Status: "paid"}).Column("status").WherePK().Exec(ctx))
		},
	},
	{
		name: "bulk update of a slice",
		write: func(ctx context.Context, tx bun.Tx) error {
			rows := []*Order{{ID: 1, Status: "x"}, {ID: 2, Status: "y"}}
			return exec(tx.NewUpdate().Model(&rows).Column("status").Bulk().Exec(ctx))
		},
		want: []string{"order 1 1 SAVE", "order 2 1 SAVE"},
	},
	{
		name: "update with a where that is not the key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1}).Set("status = 'x'").Where("number = 'b'").Exec(ctx))
		},
		refused: "not by primary key",
	},
	{
		name: "update by a column that is not the key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1, Number: "b"}).Set("status = 'x'").WherePK("number").Exec(ctx))
		},
		refused: "not by primary key",
	},
	{
		name: "update on a nil model",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model((*Order)(nil)).Set("status = 'x'").Where("id = 1").Exec(ctx))
		},
		refused: "nil pointer",
	},
	{
		name: "update of the primary key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1}).Set("id = 5").WherePK().Exec(ctx))
		},
		refused: "changes the primary key",
	},
	{
		name: "update through another model of the same table",
		write: func(ctx context.Context, tx bun.Tx) error {
			type part struct {
				bun.BaseModel `bun:"table:orders"`
				ID            int64 `bun:",pk"`
				Status        string
			}
			return exec(tx.NewUpdate().Model(&part{ID: 1, Status: "x"}).WherePK().Exec(ctx))
		},
		refused: "the registered one is Order",
	},
	{
		name: "update by table name",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Table("orders").Set("status = 'x'").Where("id = 1").Exec(ctx))
		},
		refused: "no bun model",
	},
	{
		name: "delete by primary key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&Order{ID: 1}).WherePK().Exec(ctx))
		},
		want: []string{"order 1 1 DELETE"},
	},
	{
		name: "delete a slice by primary key",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&[]Order{{ID: 1}, {ID: 2}}).WherePK().Exec(ctx))
		},
		want: []string{"order 1 1 DELETE", "order 2 1 DELETE"},
	},
	{
		name: "delete by where",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model((*Order)(nil)).Where("id = 1").Exec(ctx))
		},
		refused: "nil pointer",
	},
	{
		name: "raw update",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(ctx, "UPDATE orders SET status = 'x' WHERE id = 1"))
		},
		refused: "raw SQL",
	},
	{
		name: "raw query with lower case and a schema",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw(`delete from main."orders"`).Exec(ctx))
		},
		refused: "raw SQL",
	},
	{
		name: "delete inside WITH",
		write: func(ctx context.Context, tx bun.Tx) error {
			var n int
			return tx.NewSelect().With("gone", tx.NewDelete().Model(&Order{ID: 1}).WherePK().Returning("id")).
				Table("gone").ColumnExpr("count(*)").Scan(ctx, &n)
		},
		refused: "only NewInsert, NewUpdate and NewDelete",
	},
	{
		name: "insert that skips rows which are there",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]Note{{Slug: "old"}, {Slug: "new"}}).Ignore().Exec(ctx))
		},
		want: []string{"note new 1 SAVE", "note old 1 SAVE"}, // which of them were new, the database does not say
	},
	{
		name: "update without zero fields",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1, Status: "paid"}).OmitZero().WherePK().Exec(ctx))
		},
		want: []string{"order 1 1 SAVE"},
	},
	{
		name: "update with where that returns the rows",
		write: func(ctx context.Context, tx bun.Tx) error {
			var orders []Order
			return exec(tx.NewUpdate().Model(&orders).Set("status = 'x'").Where("id = 1").Returning("*").Exec(ctx))
		},
		refused: "not by primary key",
	},
	{
		name: "update with the text of the key condition inside another one",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Order{ID: 1}).Set("status = 'x'").
				Where(`1 = 1 OR 1 = 1 AND (?TableAlias.? = 1)`, bun.Ident("id")).Exec(ctx))
		},
		refused: "not by primary key",
	},
	{
		name: "delete by table name",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Table("orders").Where("id = 1").Exec(ctx))
		},
		refused: "no bun model",
	},
	{
		name: "delete with where that returns the rows",
		write: func(ctx context.Context, tx bun.Tx) error {
			var orders []Order
			return exec(tx.NewDelete().Model(&orders).Where("id = 1").Returning("*").Exec(ctx))
		},
		refused: "not by primary key",
	},
	{
		name: "soft delete",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&File{ID: 1}).WherePK().Exec(ctx))
		},
		want: []string{"file 1 1 DELETE"},
	},
	{
		name: "soft delete, then restored",
		write: func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewDelete().Model(&File{ID: 1}).WherePK().Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewUpdate().Model(&File{ID: 1}).Set("deleted_at = NULL").WhereAllWithDeleted().WherePK().Exec(ctx))
		},
		want: []string{"file 1 1 SAVE"},
	},
	{
		name: "force delete",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&File{ID: 1}).WherePK().ForceDelete().Exec(ctx))
		},
		want: []string{"file 1 1 DELETE"},
	},
	{
		name: "soft delete by where",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model((*File)(nil)).Where("id = 1").Exec(ctx))
		},
		refused: "nil pointer",
	},
	{
		name: "merge",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw(`MERGE INTO orders AS o USING (SELECT 1 AS id) AS s ON o.id = s.id
				WHEN MATCHED THEN UPDATE SET status = 'x'`).Exec(ctx))
		},
		refused: "raw SQL|does not know what this statement does",
	},
	{
		name: "copy",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(ctx, "COPY orders (number) FROM STDIN"))
		},
		refused: "raw SQL|does not know what this statement does",
	},
	{
		name: "two writes in one raw statement",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(ctx, "SELECT 1; UPDATE logs SET text = ''; DELETE FROM orders"))
		},
		refused: "raw SQL",
	},
	{
		name: "truncate",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewTruncateTable().Model((*Order)(nil)).Exec(ctx))
		},
		refused: "only NewInsert, NewUpdate and NewDelete|ends the transaction",
	},
	{
		name: "write of a table that is not registered",
		write: func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Log{Text: "UPDATE orders SET status = 'x'"}).Exec(ctx))
		},
	},
	{
		name: "select for update",
		write: func(ctx context.Context, tx bun.Tx) error {
			var orders []Order
			return tx.NewSelect().Model(&orders).Where("status <> 'delete from orders'").Scan(ctx)
		},
	},
}

func TestStatementIsCapturedOrRefused(t *testing.T) {
	for _, c := range statements {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(f fixture) {
				if strings.Contains(c.name, "conflict do nothing") || c.name == "upsert by primary key" || c.name == "bulk update of a slice" {
					dbtest.NotOnMariaDB(f, f.db, "it has no ON CONFLICT, and bun's values have MySQL's form")
				}
				f.prepareStatements()
				var statement error
				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					statement = c.write(ctx, tx)
					return nil // a caller that ignores the error
				})
				if c.refused == "" {
					require.NoError(f, statement)
					require.NoError(f, err)
					require.ElementsMatch(f, c.want, summary(f.take()))
					return
				}
				var refused *outbox.RefusedError
				require.ErrorAs(f, statement, &refused, "the statement itself must fail")
				require.True(f, slices.ContainsFunc(strings.Split(c.refused, "|"), func(part string) bool {
					return strings.Contains(refused.Reason, part)
				}), refused.Reason)
				require.NotEmpty(f, refused.Fix)
				require.ErrorAs(f, err, &refused, "and the transaction must not commit")
				require.Empty(f, f.take())
				var status string
				require.NoError(f, f.db.NewSelect().Model((*Order)(nil)).Column("status").Where("id = 1").Scan(f.Context(), &status))
				require.Equal(f, "new", status)
			})
		})
	}
}

// prepareStatements commits the rows that the statements meet: note "old" as one that was there
// before cqrsync.
func (f fixture) prepareStatements() {
	f.insert(&[]Order{{Number: "a", Status: "new"}, {Number: "b", Status: "new"}})
	f.insert(&File{ID: 1, Name: "f"})
	require.NoError(f, exec(f.db.NewInsert().Model(&Note{Slug: "old"}).Exec(outbox.Explicit(f.Context()))))
	f.take()
}

// NewMerge is known by PostgreSQL only.
func TestMergeIsRefused(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewMerge().Model((*Order)(nil)).With("s", tx.NewValues(&[]Order{{ID: 1}})).
			Using("s").On("?TableAlias.id = s.id").WhenDelete("MATCHED").Exec(ctx))
	})
	var refused *outbox.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reason, "only NewInsert, NewUpdate and NewDelete")
}

// MariaDB's upsert meets whichever unique key it hits first, so it may change a row that its model
// does not name.
func TestUpsertOnMariaDBIsRefused(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.MariaDBURL(t)))
	err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Order{ID: 1, Number: "a"}).On("DUPLICATE KEY UPDATE").Exec(ctx))
	})
	var refused *outbox.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Contains(t, refused.Reason, "conflict target is not the primary key")
}

// Prepared statements do not pass through bun: nothing refuses them, so whoever uses them reports
// the rows.
func TestPreparedStatementsAreReported(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Note{Slug: "n"})
		f.take()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			statement, err := tx.PrepareContext(ctx, "UPDATE notes SET text = 'x'")
			require.NoError(f, err)
			defer func() { _ = statement.Close() }()
			require.NoError(f, exec(statement.ExecContext(ctx)))
			return f.box.Saved(ctx, tx, &Note{Slug: "n"})
		}))
		messages := f.take()
		require.Equal(f, []string{"note n 1 SAVE"}, summary(messages))
		require.Contains(f, string(messages[0].Data), `"x"`)
	})
}

// Hooked has hooks of its own; the second writes another tracked row through the same connection.
type Hooked struct {
	bun.BaseModel `bun:"table:hooked"`

	ID    int64 `bun:",pk"`
	Times int64
}

func (h *Hooked) BeforeAppendModel(_ context.Context, q bun.Query) error {
	if _, update := q.(*bun.UpdateQuery); update {
		h.Times++
	}
	return nil
}

func (*Hooked) AfterUpdate(ctx context.Context, q *bun.UpdateQuery) error {
	return exec(q.NewInsert().Model(&Note{Slug: "by hook"}).Exec(ctx))
}

func TestHooksOfTheModelRunAndAreCaptured(t *testing.T) {
	each(t, func(f fixture) {
		require.NoError(f, exec(f.db.NewCreateTable().Model((*Hooked)(nil)).Exec(f.Context())))
		require.NoError(f, outbox.Register[Hooked](f.box, "hooked"))
		f.insert(&Hooked{ID: 1})
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Hooked{ID: 1}).WherePK().Exec(ctx))
		}))
		messages := f.take()
		require.Equal(f, []string{"hooked 1 0 SAVE", "hooked 1 1 SAVE", "note by hook 0 SAVE"}, summary(messages))
		require.JSONEq(f, `{"id":1,"times":1}`, string(messages[1].Data))
	})
}

func TestWritesOutsideRunInTxAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		ctx := f.Context()
		f.insert(&Order{Number: "a"})
		for name, write := range map[string]func() error{
			"builder":         func() error { return exec(f.db.NewInsert().Model(&Order{Number: "x"}).Exec(ctx)) },
			"without Tracked": func() error { return exec(f.db.NewInsert().Model(&Note{Slug: "x"}).Exec(ctx)) },
			"table": func() error {
				return exec(f.db.NewUpdate().Table("orders").Set("status = 'x'").Where("1 = 1").Exec(ctx))
			},
			"raw": func() error { return exec(f.db.ExecContext(ctx, "DELETE FROM Orders")) },
			"plain transaction": func() error {
				return f.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
					return exec(tx.NewDelete().Model(&Order{ID: 1}).WherePK().Exec(ctx))
				})
			},
			"a bun.DB the box does not know": func() error {
				other := bun.NewDB(f.db.DB, f.db.Dialect())
				return exec(other.NewInsert().Model(&Order{Number: "x"}).Exec(ctx))
			},
		} {
			var refused *outbox.RefusedError
			require.ErrorAs(f, write(), &refused, name)
			require.Contains(f, refused.Error(), "RunInTx", name)
		}
		n, err := f.db.NewSelect().Model((*Order)(nil)).Count(ctx)
		require.NoError(f, err)
		require.EqualValues(f, 1, n)
	})
}

// The callback's context on the plain database is a mistake that would write outside the
// transaction.
func TestDatabaseHandleInsideRunInTxIsRefused(t *testing.T) {
	each(t, func(f fixture) {
		err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(f.db.NewInsert().Model(&Order{Number: "x"}).Exec(ctx))
		})
		var refused *outbox.RefusedError
		require.ErrorAs(f, err, &refused)
	})
}

// With one connection, a statement beside the transaction waits for it for ever, whatever it is.
func TestDatabaseHandleInsideRunInTxDoesNotWaitForItself(t *testing.T) {
	each(t, func(f fixture) {
		f.db.SetMaxOpenConns(1)
		var after context.Context
		for name, beside := range map[string]func(ctx context.Context) error{
			"a read": func(ctx context.Context) error {
				return f.db.NewSelect().Model((*Order)(nil)).Limit(1).Scan(ctx, &[]Order{})
			},
			"raw": func(ctx context.Context) error { return exec(f.db.ExecContext(ctx, "SELECT 1")) },
			"a transaction": func(ctx context.Context) error {
				return f.db.RunInTx(ctx, nil, func(context.Context, bun.Tx) error { return nil })
			},
		} {
			err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
				after = ctx
				return beside(ctx)
			})
			var refused *outbox.RefusedError
			require.ErrorAs(f, err, &refused, name)
			require.ErrorContains(f, err, "use tx in place of db")
			require.NoError(f, beside(after), "the transaction has ended")
		}
	})
}

func TestExplicitWritesMustBeReported(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Order{Number: "a", Status: "new"})
		f.take()
		update := func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(outbox.Explicit(ctx), "UPDATE orders SET status = 'x' WHERE id = 1"))
		}
		var refused *outbox.RefusedError
		require.ErrorAs(f, f.inTx(update), &refused)
		require.Contains(f, refused.Reason, "no Order was reported")
		require.Empty(f, f.take())

		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := update(ctx, tx); err != nil {
				return err
			}
			return f.box.Saved(ctx, tx, &Order{ID: 1})
		}))
		require.Equal(f, []string{"order 1 1 SAVE"}, summary(f.take()))
	})
}

func TestReportedRowsOfAForeignTransaction(t *testing.T) {
	each(t, func(f fixture) {
		ctx := outbox.Explicit(f.Context())
		tx, err := f.db.BeginTx(ctx, nil)
		require.NoError(f, err)
		require.NoError(f, exec(tx.NewInsert().Model(&[]Note{{Slug: "a"}, {Slug: "b"}}).Exec(ctx)))
		require.NoError(f, f.box.Saved(ctx, tx, []*Note{{Slug: "a"}, {Slug: "b"}}))
		require.NoError(f, tx.Commit())
		require.Equal(f, []string{"note a 1 SAVE", "note b 1 SAVE"}, summary(f.take()))

		tx, err = f.db.BeginTx(ctx, nil)
		require.NoError(f, err)
		require.NoError(f, exec(tx.ExecContext(ctx, "DELETE FROM notes WHERE slug = 'a'")))
		require.NoError(f, f.box.Deleted(ctx, tx, &Note{Slug: "a"}))
		require.NoError(f, tx.Rollback())
		require.Empty(f, f.take())
	})
}

func TestReportedRowsMustBeRegisteredAndHaveAKey(t *testing.T) {
	each(t, func(f fixture) {
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			require.ErrorContains(f, f.box.Saved(ctx, tx, &Log{ID: 1}), "not a registered model")
			require.ErrorContains(f, f.box.Saved(ctx, tx, &Order{}), "without primary key")
			require.ErrorContains(f, f.box.Saved(ctx, tx, (*Order)(nil)), "nil row")
			require.ErrorContains(f, f.box.Saved(ctx, tx, nil), "not a registered model")
			require.ErrorContains(f, f.box.Saved(ctx, bun.Tx{}, &Order{ID: 1}), "zero bun.Tx")
			return nil
		}))
	})
}
