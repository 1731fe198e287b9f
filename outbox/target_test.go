package outbox_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// refusedFor checks that a statement is refused for a reason, and that its transaction does not
// commit either.
func (f fixture) refusedFor(reason string, write func(ctx context.Context, tx bun.Tx) error) {
	f.Helper()
	var refused *outbox.RefusedError
	err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
		require.ErrorAs(f, write(ctx, tx), &refused)
		require.Contains(f, refused.Error(), reason)
		return nil
	})
	require.ErrorAs(f, err, &refused)
	require.Empty(f, f.take())
}

// A registered model writes its own table, and no other.
func TestAModelIsNotWrittenIntoAnotherTable(t *testing.T) {
	each(t, func(f fixture) {
		f = f.withItems()
		f.raw("CREATE TABLE other_items (id bigint PRIMARY KEY, name varchar(20))")
		f.refusedFor("the table registered for Item is items", func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Item{ID: 1}).ModelTableExpr("other_items").Exec(ctx))
		})
		f.refusedFor("the table registered for Item is items", func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Item{ID: 1}).ModelTableExpr("other_items AS item").WherePK().Exec(ctx))
		})
		f.refusedFor("the table registered for Item is items", func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&Item{ID: 1}).ModelTableExpr("elsewhere.items AS item").WherePK().Exec(ctx))
		})
	})
}

// Partitions, parents and views are other names for rows of a registered table.
func TestOtherNamesOfARegisteredTableAreRefused(t *testing.T) {
	for name, ddl := range map[string]string{
		"a partition": `CREATE TABLE items (id bigint PRIMARY KEY, name text) PARTITION BY RANGE (id);
			CREATE TABLE other_items PARTITION OF items FOR VALUES FROM (0) TO (1000)`,
		"a partition of a partition": `CREATE TABLE items (id bigint PRIMARY KEY, name text) PARTITION BY RANGE (id);
			CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (1000) PARTITION BY RANGE (id);
			CREATE TABLE other_items PARTITION OF items_1 FOR VALUES FROM (0) TO (10)`,
		"a child":  `CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE TABLE other_items () INHERITS (items)`,
		"a parent": `CREATE TABLE other_items (id bigint, name text); CREATE TABLE items (PRIMARY KEY (id)) INHERITS (other_items)`,
		"a view":   `CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE VIEW other_items AS SELECT * FROM items`,
		"the table behind a view": `CREATE TABLE other_items (id bigint PRIMARY KEY, name text);
			CREATE VIEW items AS SELECT * FROM other_items`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, dbtestPostgres(t))
			f.raw(ddl)
			f.otherItemsAreRefused()
		})
	}
	t.Run("a view", func(t *testing.T) {
		each(t, func(f fixture) {
			f.raw("CREATE TABLE items (id bigint PRIMARY KEY, name varchar(20)); CREATE VIEW other_items AS SELECT * FROM items")
			f.otherItemsAreRefused()
		})
	})
	t.Run("the table behind a view", func(t *testing.T) {
		each(t, func(f fixture) {
			f.raw("CREATE TABLE other_items (id bigint PRIMARY KEY, name varchar(20)); CREATE VIEW items AS SELECT * FROM other_items")
			f.otherItemsAreRefused()
		})
	})
}

func (f fixture) otherItemsAreRefused() {
	f.Helper()
	require.NoError(f, outbox.Register[Item](f.box, "item"))
	reason := "it is a partition, parent, child or view of the registered table items"
	for _, text := range []string{
		"INSERT INTO other_items (id, name) VALUES (1, 'x')", "UPDATE other_items SET name = 'x'", "DELETE FROM other_items",
	} {
		f.refusedFor(reason, func(ctx context.Context, tx bun.Tx) error { return exec(tx.ExecContext(ctx, text)) })
	}
	f.refusedFor(reason, func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewUpdate().Table("other_items").Set("name = 'x'").Where("1 = 1").Exec(ctx))
	})
	var refused *outbox.RefusedError
	require.ErrorAs(f, exec(f.db.ExecContext(f.Context(), "DELETE FROM other_items")), &refused)
}

func TestTablesOfOneNameInTwoSchemas(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	for _, schema := range []string{"cqrsync_test_a", "cqrsync_test_b"} {
		f.raw("DROP SCHEMA IF EXISTS " + schema + " CASCADE; CREATE SCHEMA " + schema)
		t.Cleanup(func() { f.raw("DROP SCHEMA " + schema + " CASCADE") })
		f.raw("CREATE TABLE " + schema + ".users (id bigint PRIMARY KEY, name text)")
	}
	type first struct {
		bun.BaseModel `bun:"table:cqrsync_test_a.users,alias:u"`
		ID            int64 `bun:",pk"`
		Name          string
	}
	type second struct {
		bun.BaseModel `bun:"table:cqrsync_test_b.users,alias:u"`
		ID            int64 `bun:",pk"`
		Name          string
	}
	type bare struct {
		bun.BaseModel `bun:"table:users,alias:u"`
		ID            int64 `bun:",pk"`
	}
	require.NoError(t, outbox.Register[first](f.box, "first"))
	both := func(ctx context.Context, tx bun.Tx) error {
		if err := exec(tx.NewInsert().Model(&first{ID: 1}).Exec(ctx)); err != nil {
			return err
		}
		return exec(tx.NewInsert().Model(&second{ID: 2}).Exec(ctx))
	}
	require.NoError(t, f.inTx(both), "the other one is not registered")
	require.Equal(t, []string{"first 1 0 SAVE"}, summary(f.take()))
	require.NoError(t, exec(f.db.ExecContext(t.Context(), "UPDATE cqrsync_test_b.users SET name = 'x'")))
	var refused *outbox.RefusedError
	for _, text := range []string{"DELETE FROM users", `DELETE FROM "cqrsync_test_a"."users"`, "DELETE FROM Cqrsync_Test_A.Users"} {
		require.ErrorAs(t, exec(f.db.ExecContext(t.Context(), text)), &refused, text)
	}

	require.NoError(t, outbox.Register[second](f.box, "second"))
	f.raw("DELETE FROM cqrsync_test_a.users; DELETE FROM cqrsync_test_b.users")
	require.NoError(t, f.inTx(both))
	require.Equal(t, []string{"first 1 1 SAVE", "second 2 0 SAVE"}, summary(f.take()))
	require.ErrorContains(t, outbox.Register[bare](f.box, "bare"), "name the schema of both")
}

func TestABoxGuardsItsTablesInTransactionsOfAnother(t *testing.T) {
	each(t, func(f fixture) {
		f = f.withItems()
		other, err := outbox.New(f.db, outbox.Config{TablePrefix: "b_"})
		require.NoError(f, err)
		require.NoError(f, other.Migrate(f.Context()))
		for name, write := range map[string]func(ctx context.Context, tx bun.Tx) error{
			"builder": func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Note{Slug: "x"}).Exec(ctx))
			},
			"tracked": func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Item{ID: 1}).Exec(ctx))
			},
			"raw": func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.ExecContext(ctx, "UPDATE items SET name = 'x'"))
			},
		} {
			var refused *outbox.RefusedError
			require.ErrorAs(f, other.RunInTx(f.Context(), nil, write), &refused, name)
			require.Contains(f, refused.Error(), "with one Box", name)
		}
	})
}

// Stray embeds Tracked, and nobody has registered it.
type Stray struct {
	bun.BaseModel `bun:"table:strays"`
	outbox.Tracked

	ID int64 `bun:",pk"`
}

func TestATrackedModelMustBeRegistered(t *testing.T) {
	each(t, func(f fixture) {
		require.NoError(f, exec(f.db.NewCreateTable().Model((*Stray)(nil)).Exec(f.Context())))
		for _, write := range []func(ctx context.Context, tx bun.Tx) error{
			func(ctx context.Context, tx bun.Tx) error { return exec(tx.NewInsert().Model(&Stray{ID: 1}).Exec(ctx)) },
			func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewUpdate().Model((*Stray)(nil)).Set("id = 2").Where("id = 1").Exec(ctx))
			},
			func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewDelete().Model(&Stray{ID: 1}).WherePK().Exec(ctx))
			},
		} {
			var refused *outbox.RefusedError
			require.ErrorAs(f, f.inTx(write), &refused)
			require.Contains(f, refused.Error(), "is not registered")
		}
	})
}

func TestAssignmentsOfTheKeyAreRefused(t *testing.T) {
	each(t, func(f fixture) {
		f = f.withItems()
		f.insert(&Item{ID: 1})
		f.take()
		for _, set := range []string{"id = 5", "(id, name) = (5, 'x')", "name = 'x', (name, id) = (SELECT 'x', 5)", `"id" = 5`} {
			if f.db.Dialect().Name() == dialect.MySQL && set != "id = 5" {
				continue // no such syntax
			}
			f.refusedFor("changes the primary key", func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewUpdate().Model(&Item{ID: 1}).Set(set).WherePK().Exec(ctx))
			})
			if f.db.Dialect().Name() != dialect.MySQL {
				f.refusedFor("changes the primary key", func(ctx context.Context, tx bun.Tx) error {
					return exec(tx.NewInsert().Model(&Item{ID: 1}).On("CONFLICT (id) DO UPDATE").Set(set).Exec(ctx))
				})
			}
		}
	})
}

type pointerKey struct {
	bun.BaseModel `bun:"table:pointers"`
	ID            *int64 `bun:",pk"`
	Name          string
}

type bytesKey struct {
	bun.BaseModel `bun:"table:bytes"`
	ID            []byte `bun:"type:varbinary(20),pk"`
	Name          string
}

func TestKeysThatCallersReuseAreCopied(t *testing.T) {
	each(t, func(f fixture) {
		f.raw("CREATE TABLE pointers (id bigint PRIMARY KEY, name varchar(20))")
		f.run(map[dialect.Name]string{
			dialect.PG: "CREATE TABLE bytes (id bytea PRIMARY KEY, name text)", dialect.SQLite: "CREATE TABLE bytes (id blob PRIMARY KEY, name text)",
			dialect.MySQL: "CREATE TABLE bytes (id varbinary(20) PRIMARY KEY, name varchar(20))",
		})
		require.NoError(f, outbox.Register[pointerKey](f.box, "p"))
		require.NoError(f, outbox.Register[bytesKey](f.box, "b"))
		id, text := new(int64), []byte{0}
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			for i := range 3 {
				*id, text[0] = int64(i+1), byte(i+1)
				require.NoError(f, exec(tx.NewInsert().Model(&pointerKey{ID: id}).Exec(ctx)))
				require.NoError(f, exec(tx.NewInsert().Model(&bytesKey{ID: text}).Exec(ctx)))
			}
			return nil
		}))
		require.Equal(f, []string{
			"b AQ== 0 SAVE", "b Ag== 0 SAVE", "b Aw== 0 SAVE", "p 1 0 SAVE", "p 2 0 SAVE", "p 3 0 SAVE",
		}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			for i := range 3 {
				*id, text[0] = int64(i+1), byte(i+1)
				require.NoError(f, exec(tx.NewDelete().Model(&pointerKey{ID: id}).WherePK().Exec(ctx)))
				require.NoError(f, exec(tx.NewDelete().Model(&bytesKey{ID: text}).WherePK().Exec(ctx)))
			}
			return nil
		}))
		require.Len(f, f.take(), 6)
	})
}

// A row with the time of its deletion is deleted, also where an UPDATE wrote it.
func TestASoftDeleteByAWholeRowIsADelete(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&File{ID: 1, Name: "f"})
		f.take()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&File{ID: 1, Name: "f", DeletedAt: time.Now()}).WherePK().Exec(ctx))
		}))
		require.Equal(f, []string{"file 1 1 DELETE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&File{ID: 2, Name: "f", DeletedAt: time.Now()}).Exec(ctx))
		}))
		require.Empty(f, f.take(), "it was never there")
	})
}
