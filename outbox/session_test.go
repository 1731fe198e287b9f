package outbox_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// ordinal is a table for what only concerns keys.
type Item struct {
	bun.BaseModel `bun:"table:items"`
	outbox.Tracked

	ID   int64 `bun:",pk"`
	Name string
}

// withItems makes the table of items, and registers it.
func (f fixture) withItems(options ...outbox.Option) fixture {
	f.Helper()
	require.NoError(f, exec(f.db.NewCreateTable().Model((*Item)(nil)).Exec(f.Context())))
	require.NoError(f, outbox.Register[Item](f.box, "item", options...))
	return f
}

// A row that a statement of the transaction wrote, and that the flush does not find, is neither
// deleted nor unknown.
func TestAVanishedRowForbidsTheCommit(t *testing.T) {
	t.Run("a function deletes it", func(t *testing.T) {
		f := newFixture(t, dbtestPostgres(t)).withItems()
		f.raw("CREATE FUNCTION gone(i bigint) RETURNS void LANGUAGE sql AS $$ DELETE FROM items WHERE id = i $$")
		f.vanishes(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewRaw("SELECT gone(1)").Exec(ctx))
		})
	})
	t.Run("a view hides it", func(t *testing.T) {
		each(t, func(f fixture) {
			f.raw("CREATE TABLE stored_items (id bigint PRIMARY KEY, name varchar(20))")
			if f.db.Dialect().Name() == dialect.SQLite {
				f.raw("CREATE VIEW items AS SELECT * FROM stored_items WHERE name <> 'hidden'")
				f.raw(`CREATE TRIGGER put INSTEAD OF INSERT ON items BEGIN INSERT INTO stored_items VALUES (NEW.id, NEW.name); END`)
			} else {
				f.raw("CREATE VIEW items AS SELECT * FROM stored_items WHERE name <> 'hidden'")
			}
			require.NoError(f, outbox.Register[Item](f.box, "item"))
			require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Item{ID: 2, Name: "shown"}).Exec(ctx))
			}))
			require.Len(f, f.take(), 1)
			err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "hidden"}).Exec(ctx))
			})
			if f.db.Dialect().Name() != dialect.SQLite { // whose views count no row: it may have been refused by the trigger
				var refused *outbox.RefusedError
				require.ErrorAs(f, err, &refused)
				require.Equal(f, "items", refused.Table)
				require.Contains(f, refused.Reason, "key 1")
			}
			require.Empty(f, f.take())
		})
	})
	t.Run("row level security hides it", func(t *testing.T) {
		f := newFixture(t, dbtestPostgres(t)).withItems()
		var schema string
		require.NoError(t, f.db.DB.QueryRowContext(t.Context(), "SELECT current_schema()").Scan(&schema))
		role := schema + "_reader"
		t.Cleanup(func() { f.raw("DROP OWNED BY " + role + "; DROP ROLE " + role) })
		f.raw(strings.NewReplacer("ROLE_", role, "SCHEMA_", schema).Replace(`CREATE ROLE ROLE_; GRANT ROLE_ TO CURRENT_USER;
			ALTER TABLE items ENABLE ROW LEVEL SECURITY; CREATE POLICY w ON items FOR INSERT WITH CHECK (true);
			CREATE POLICY r ON items FOR SELECT USING (name = 'shown'); GRANT USAGE ON SCHEMA SCHEMA_ TO ROLE_;
			GRANT ALL ON ALL TABLES IN SCHEMA SCHEMA_ TO ROLE_; GRANT ALL ON ALL SEQUENCES IN SCHEMA SCHEMA_ TO ROLE_`))
		err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.Tx.ExecContext(ctx, "SET LOCAL ROLE "+role)); err != nil {
				return err
			}
			return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "hidden"}).Exec(ctx))
		})
		require.ErrorContains(t, err, "key 1 was written in this transaction")
	})
	t.Run("a rollback past bun", func(t *testing.T) {
		each(t, func(f fixture) {
			f = f.withItems()
			err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
				require.NoError(f, exec(tx.Tx.ExecContext(ctx, "SAVEPOINT a")))
				require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 1}).Exec(ctx)))
				return exec(tx.Tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT a"))
			})
			require.ErrorContains(f, err, "key 1 was written in this transaction")
			require.Empty(f, f.take())
		})
	})
}

// vanishes inserts item 1 and hides it, in each order in which that can be.
func (f fixture) vanishes(hide func(ctx context.Context, tx bun.Tx) error) {
	f.Helper()
	err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
		if err := exec(tx.NewInsert().Model(&Item{ID: 1}).Exec(ctx)); err != nil {
			return err
		}
		return hide(ctx, tx)
	})
	require.ErrorContains(f, err, "key 1 was written in this transaction")
	require.Empty(f, f.take())
	f.insert(&Item{ID: 1})
	f.take()
	err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
		if err := exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "x"}).WherePK().Exec(ctx)); err != nil {
			return err
		}
		return hide(ctx, tx)
	})
	require.ErrorContains(f, err, "key 1 was written in this transaction")
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		if err := exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "x"}).WherePK().Exec(ctx)); err != nil {
			return err
		}
		return errors.Join(hide(ctx, tx), f.box.Deleted(ctx, tx, &Item{ID: 1}))
	}))
	require.Equal(f, []string{"item 1 1 DELETE"}, summary(f.take()), "a row that is reported as deleted may be gone")
}

// What a savepoint takes back is not there, however the statement is written, and what was before
// it still must be.
func TestSavepointsAreFollowed(t *testing.T) {
	for name, back := range map[string]string{
		"plain": "ROLLBACK TO SAVEPOINT a", "short": "rollback to a", "a line break before": "\n\tROLLBACK TO SAVEPOINT a",
		"a comment before": "-- undo\nROLLBACK TO a", "a comment within": "ROLLBACK /* it */ TO SAVEPOINT a",
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(f fixture) {
				f = f.withItems()
				run := func(tx bun.Tx, text string) { require.NoError(f, exec(tx.NewRaw(text).Exec(f.Context()))) }
				require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
					require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 1}).Exec(ctx)))
					run(tx, "SAVEPOINT a")
					require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 2}).Exec(ctx)))
					require.NoError(f, exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "undone"}).WherePK().Exec(ctx)))
					run(tx, back)
					require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 3}).Exec(ctx)))
					run(tx, "RELEASE SAVEPOINT a")
					return nil
				}))
				messages := f.take()
				require.Equal(f, []string{"item 1 0 SAVE", "item 3 0 SAVE"}, summary(messages))
				require.Contains(f, string(messages[0].Data), `"name":""`)

				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 4}).Exec(ctx)))
					run(tx, "SAVEPOINT a")
					require.NoError(f, exec(tx.NewDelete().Model(&Item{ID: 4}).WherePK().Exec(ctx)))
					run(tx, back)
					return exec(tx.Tx.ExecContext(ctx, "DELETE FROM items WHERE id = 4"))
				})
				require.ErrorContains(f, err, "key 4 was written", "the insert before the savepoint still counts")
			})
		})
	}
}

// An INSERT that fails and is rolled back leaves nothing unknown.
func TestAFailedStatementBehindASavepointForbidsNothing(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Order{Number: "a"})
		f.take()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&[]Order{{Number: "b"}, {Number: "a"}}).Exec(ctx))
			})
			require.Error(f, err)
			_ = tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				var ids []bool // of a slice into which nothing fits: which rows it was is not known
				err := tx.NewInsert().Model(&[]Order{{Number: "c"}, {Number: "d"}}).Returning("id").Scan(ctx, &ids)
				return errors.Join(err, errors.New("undo"))
			})
			return exec(tx.NewInsert().Model(&Order{Number: "e"}).Exec(ctx))
		}))
		messages := f.take()
		require.Len(f, messages, 1)
		require.Equal(f, f.ids("orders")[1:], []string{messages[0].Key})
	})
}

func TestNothingButTheReturnEndsTheTransaction(t *testing.T) {
	for name, end := range map[string]func(ctx context.Context, tx bun.Tx) error{
		"COMMIT":   func(ctx context.Context, tx bun.Tx) error { return exec(tx.ExecContext(ctx, "COMMIT")) },
		"commit;":  func(ctx context.Context, tx bun.Tx) error { return exec(tx.NewRaw(" commit;").Exec(ctx)) },
		"ROLLBACK": func(ctx context.Context, tx bun.Tx) error { return exec(tx.ExecContext(ctx, "ROLLBACK")) },
		"Commit":   func(_ context.Context, tx bun.Tx) error { return tx.Commit() },
		"Explicit": func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(outbox.Explicit(ctx), "COMMIT"))
		},
		"Rollback": func(_ context.Context, tx bun.Tx) error { return tx.Rollback() },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(f fixture) {
				f = f.withItems()
				err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
					require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 1}).Exec(ctx)))
					_ = end(ctx, tx)
					_ = exec(tx.NewInsert().Model(&Item{ID: 2}).Exec(ctx))
					return nil
				})
				require.Error(f, err)
				require.Empty(f, f.ids("items"))
				require.Empty(f, f.take())
			})
		})
	}
}

// A deadlock ends the transaction on MariaDB, not in database/sql: what came after it would be
// committed by itself.
func TestATransactionThatTheDatabaseEndedWritesNothing(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.MariaDBURL(t))).withItems()
	f.insert(&[]Item{{ID: 1}, {ID: 2}})
	f.take()
	update := func(ctx context.Context, tx bun.Tx, id int64) error {
		return exec(tx.NewUpdate().Model(&Item{ID: id, Name: "x"}).WherePK().Exec(ctx))
	}
	var both, done sync.WaitGroup
	both.Add(2)
	errs := make([]error, 2)
	for i := range errs {
		done.Go(func() {
			errs[i] = f.inTx(func(ctx context.Context, tx bun.Tx) error {
				require.NoError(f, update(ctx, tx, int64(1+i)))
				both.Done()
				both.Wait()
				_ = update(ctx, tx, int64(2-i)) // one of the two is given up, and ignores it
				return exec(tx.NewInsert().Model(&Item{ID: int64(10 + i)}).Exec(ctx))
			})
		})
	}
	done.Wait()
	failed := 0
	for _, err := range errs {
		if err != nil {
			failed++
			require.ErrorContains(f, err, "rolled the transaction back")
		}
	}
	require.Equal(f, 1, failed, "%v", errs)
	require.Len(f, f.ids("items"), 3)
	require.Len(f, f.take(), 3)
}

// The same on SQLite, where an INSERT may say what an error does to the transaction.
func TestATransactionThatAnErrorEndedWritesNothing(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t))).withItems()
	f.insert(&Item{ID: 1})
	f.take()
	err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
		require.NoError(f, exec(tx.NewInsert().Model(&Item{ID: 2}).Exec(ctx)))
		require.Error(f, exec(tx.Tx.ExecContext(ctx, "INSERT OR ROLLBACK INTO items (id) VALUES (1)")))
		_ = exec(tx.NewInsert().Model(&Item{ID: 1}).Exec(ctx)) // fails, and the session asks
		_ = exec(tx.NewInsert().Model(&Item{ID: 3}).Exec(ctx))
		return nil
	})
	require.ErrorContains(f, err, "rolled the transaction back")
	require.Equal(f, []string{"1"}, f.ids("items"))
	require.Empty(f, f.take())
}

// Whatever a forgotten goroutine managed to write has its message, or nothing was committed.
func TestAGoroutineThatIsNotWaitedForLosesNothing(t *testing.T) {
	each(t, func(f fixture) {
		f = f.withItems(outbox.EveryRevision())
		var wg sync.WaitGroup
		for round := range 10 {
			started := make(chan struct{})
			_ = f.inTx(func(ctx context.Context, tx bun.Tx) error {
				wg.Go(func() {
					for i := range 50 {
						if exec(tx.NewInsert().Model(&Item{ID: int64(round*100 + i)}).Exec(ctx)) != nil {
							break
						}
						if i == 2 {
							close(started)
						}
					}
				})
				<-started
				return nil
			})
			wg.Wait()
		}
		var keys []string
		for _, m := range f.take() {
			keys = append(keys, m.Key)
		}
		require.ElementsMatch(f, f.ids("items"), keys)
	})
}

func TestFunctionsOfTheFlushWriteNothing(t *testing.T) {
	each(t, func(f fixture) {
		var tx bun.Tx
		write := func(ctx context.Context) error { return exec(tx.NewInsert().Model(&Note{Slug: "late"}).Exec(ctx)) }
		f = f.withItems(outbox.Serializer(func(ctx context.Context, db bun.IDB, rows []*Item) ([]any, error) {
			if rows[0].Name == "serializer" {
				_ = exec(db.NewInsert().Model(&Note{Slug: "late"}).Exec(ctx))
			}
			return []any{map[string]any{"id": rows[0].ID}}, nil
		}), outbox.Filter(func(row *Item) bool {
			if row.Name == "filter" {
				_ = write(f.Context())
			}
			if row.Name == "touch" {
				_ = outbox.Touch[Note](f.Context(), tx, "late")
			}
			return true
		}))
		for _, name := range []string{"serializer", "filter"} {
			err := f.inTx(func(ctx context.Context, own bun.Tx) error {
				tx = own
				return exec(tx.NewInsert().Model(&Item{ID: 1, Name: name}).Exec(ctx))
			})
			require.ErrorContains(f, err, "its messages are made", name)
		}
		require.Empty(f, f.take())
		require.Empty(f, f.ids("items"))
	})
}

// What a table does with an INSERT may be counted as nothing.
func TestRowsThatAreWrittenElsewhereAreCaptured(t *testing.T) {
	for name, ddl := range map[string]string{
		"a trigger of partitions": `CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE TABLE items_1 () INHERITS (items);
			CREATE FUNCTION part() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN INSERT INTO items_1 VALUES (NEW.*); RETURN NULL; END $$;
			CREATE TRIGGER t BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION part()`,
		"a rule": `CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE TABLE items_1 () INHERITS (items);
			CREATE RULE r AS ON INSERT TO items WHERE NEW.id > 0 DO INSTEAD INSERT INTO items_1 VALUES (NEW.*)`,
		"a view": `CREATE TABLE items_1 (id bigint PRIMARY KEY, name text); CREATE VIEW items AS SELECT * FROM items_1;
			CREATE FUNCTION ins() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN INSERT INTO items_1 VALUES (NEW.*); RETURN NULL; END $$;
			CREATE TRIGGER t INSTEAD OF INSERT ON items FOR EACH ROW EXECUTE FUNCTION ins()`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, dbtestPostgres(t))
			f.raw(ddl)
			testRerouted(f)
		})
	}
	t.Run("a view of SQLite", func(t *testing.T) {
		f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
		f.raw("CREATE TABLE items_1 (id bigint PRIMARY KEY, name text); CREATE VIEW items AS SELECT * FROM items_1")
		f.raw("CREATE TRIGGER ins INSTEAD OF INSERT ON items BEGIN INSERT INTO items_1 VALUES (NEW.id, NEW.name); END")
		require.NoError(f, outbox.Register[Item](f.box, "item"))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "a"}).Exec(ctx)) // its UPDATE of a view has no alias, bun's has
		}))
		require.Equal(f, []string{"item 1 1 SAVE"}, summary(f.take()))
	})
}

func testRerouted(f fixture) {
	require.NoError(f, outbox.Register[Item](f.box, "item"))
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "a"}).Exec(ctx))
	}))
	messages := f.take()
	require.Len(f, messages, 1)
	require.Contains(f, string(messages[0].Data), `"name":"a"`)
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewUpdate().Model(&Item{ID: 1, Name: "b"}).WherePK().Exec(ctx))
	}))
	messages = f.take()
	require.Len(f, messages, 1)
	require.Contains(f, string(messages[0].Data), `"name":"b"`)
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewUpdate().Model(&Item{ID: 2, Name: "no such row"}).WherePK().Exec(ctx))
	}))
	require.Empty(f, f.take())
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewDelete().Model(&Item{ID: 1}).WherePK().Exec(ctx))
	}))
	messages = f.take()
	require.Len(f, messages, 1)
	require.Equal(f, "DELETE", messages[0].Signal)
}
