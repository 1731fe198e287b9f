package outbox_test

import (
	"context"
	"errors"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// situation is a table, or a transaction, that is not as plain as in the statement cases. The
// document says what becomes of each; its own test says why.
type situation struct {
	name    string
	only    []dialect.Name        // where it can be, empty for everywhere
	prepare func(f fixture)       // may be nil
	run     func(f fixture) error // the transaction
}

const createItems = "CREATE TABLE items (id bigint PRIMARY KEY, name varchar(20))"

// itemsMadeBy registers items of a table that statements make.
func itemsMadeBy(statements string) func(f fixture) {
	return func(f fixture) {
		f.raw(statements)
		require.NoError(f, outbox.Register[Item](f.box, "item"))
	}
}

func plainItems(f fixture) { f.withItems() }

// inTx is one transaction.
func inTx(write func(ctx context.Context, tx bun.Tx) error) func(fixture) error {
	return func(f fixture) error { return f.inTx(write) }
}

func insertItem(ctx context.Context, tx bun.Tx) error {
	return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "a"}).Exec(ctx))
}

// insertItemThen runs statements past the capture behind the insert.
func insertItemThen(statement string) func(fixture) error {
	return inTx(func(ctx context.Context, tx bun.Tx) error {
		if err := insertItem(ctx, tx); err != nil {
			return err
		}
		return exec(tx.NewRaw(statement).Exec(ctx))
	})
}

// codesOf registers codes whose key column has a type.
func codesOf(types map[dialect.Name]string) func(f fixture) {
	return func(f fixture) {
		f.raw("CREATE TABLE codes (code " + types[f.db.Dialect().Name()] + " PRIMARY KEY, name varchar(20))")
		require.NoError(f, outbox.Register[Code](f.box, "code"))
		f.insert(&Code{Code: "Abc"})
	}
}

var foldingTypes = map[dialect.Name]string{
	dialect.PG: "char(8)", dialect.MySQL: "varchar(20) COLLATE utf8mb4_general_ci", dialect.SQLite: "text COLLATE NOCASE",
}

// spelled is another spelling of the key "Abc" in a column of those types.
var spelled = map[dialect.Name]string{dialect.PG: "Abc  ", dialect.MySQL: "aBC", dialect.SQLite: "aBC"}

func upsertItem(ctx context.Context, tx bun.Tx) error {
	return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "a"}).On("CONFLICT (id) DO UPDATE").Set("name = EXCLUDED.name").Exec(ctx))
}

// shifted registers items whose trigger adds 100 to the key of an inserted row, after another
// statement ran.
func shifted(first string) func(f fixture) {
	return func(f fixture) {
		f.raw(createItems)
		f.raw(first)
		f.run(map[dialect.Name]string{
			dialect.PG: `CREATE FUNCTION shift() RETURNS trigger LANGUAGE plpgsql AS $$
				BEGIN NEW.id := NEW.id + 100; RETURN NEW; END $$;
				CREATE TRIGGER shift BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION shift()`,
			dialect.MySQL: "CREATE TRIGGER shift BEFORE INSERT ON items FOR EACH ROW SET NEW.id = NEW.id + 100",
			dialect.SQLite: `CREATE TRIGGER shift AFTER INSERT ON items
				BEGIN UPDATE items SET id = id + 100 WHERE id = NEW.id; END`,
		})
		require.NoError(f, outbox.Register[Item](f.box, "item"))
	}
}

var situations = []situation{
	{name: "insert under a key that a trigger changes", prepare: shifted(""), run: inTx(insertItem)},
	{name: "the same, where the given key has a row", only: []dialect.Name{dialect.PG, dialect.MySQL},
		prepare: shifted("INSERT INTO items VALUES (1, 'other')"), run: inTx(insertItem)},
	{name: "the same, Returning(\"*\")", only: []dialect.Name{dialect.PG, dialect.MySQL}, prepare: shifted(""),
		run: inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Item{ID: 1}).Returning("*").Exec(ctx))
		})},
	{name: "insert that skips what is there, under a key that a trigger changes", only: []dialect.Name{dialect.PG, dialect.MySQL},
		prepare: shifted("INSERT INTO items VALUES (1, 'other')"), run: inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]Item{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}}).Ignore().Exec(ctx))
		})},
	{name: "upsert of a new row under a key that a trigger changes", only: []dialect.Name{dialect.PG, dialect.SQLite},
		prepare: shifted(""), run: inTx(upsertItem)},
	{name: "the same, of a row that is there", only: []dialect.Name{dialect.PG},
		prepare: shifted("INSERT INTO items VALUES (101, 'old')"), run: inTx(upsertItem)},
	{name: "the same, where both rows are there", only: []dialect.Name{dialect.PG},
		prepare: shifted("INSERT INTO items VALUES (1, 'other'), (101, 'old')"), run: inTx(upsertItem)},
	{name: "the same, Returning(\"*\"), both rows there", only: []dialect.Name{dialect.PG},
		prepare: shifted("INSERT INTO items VALUES (1, 'other'), (101, 'old')"),
		run: inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Item{ID: 1, Name: "a"}).On("CONFLICT (id) DO UPDATE").
				Set("name = EXCLUDED.name").Returning("*").Exec(ctx))
		})},
	{name: "insert that a trigger puts into a partition, 0 rows counted", only: []dialect.Name{dialect.PG},
		prepare: itemsMadeBy(`CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE TABLE items_1 () INHERITS (items);
		CREATE FUNCTION part() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO items_1 VALUES (NEW.*); RETURN NULL; END $$;
		CREATE TRIGGER t BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION part()`), run: inTx(insertItem)},
	{name: "insert that a rule redirects, 0 rows counted", only: []dialect.Name{dialect.PG},
		prepare: itemsMadeBy(`CREATE TABLE items (id bigint PRIMARY KEY, name text); CREATE TABLE items_1 () INHERITS (items);
		CREATE RULE r AS ON INSERT TO items DO INSTEAD INSERT INTO items_1 VALUES (NEW.*)`), run: inTx(insertItem)},
	{name: "insert into a view with INSTEAD OF", only: []dialect.Name{dialect.SQLite}, prepare: func(f fixture) {
		f.raw("CREATE TABLE stored (id bigint PRIMARY KEY, name text); CREATE VIEW items AS SELECT * FROM stored")
		f.raw("CREATE TRIGGER t INSTEAD OF INSERT ON items BEGIN INSERT INTO stored VALUES (NEW.id, NEW.name); END")
		require.NoError(f, outbox.Register[Item](f.box, "item"))
	}, run: inTx(insertItem)},
	{name: "insert into a view that does not show the row", only: []dialect.Name{dialect.PG, dialect.MySQL}, prepare: itemsMadeBy(
		"CREATE TABLE stored (id bigint PRIMARY KEY, name varchar(20)); CREATE VIEW items AS SELECT * FROM stored WHERE name <> 'a'"),
		run: inTx(insertItem)},
	{name: "update by another spelling of the key (char(8), a collation, NOCASE)", prepare: codesOf(foldingTypes),
		run: func(f fixture) error {
			return f.inTx(func(ctx context.Context, tx bun.Tx) error {
				row := &Code{Code: spelled[f.db.Dialect().Name()], Name: "b"}
				return exec(tx.NewUpdate().Model(row).Column("name").WherePK().Exec(ctx))
			})
		}},
	{name: "delete by another spelling of the key", prepare: codesOf(foldingTypes),
		run: func(f fixture) error {
			return f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewDelete().Model(&Code{Code: spelled[f.db.Dialect().Name()]}).WherePK().Exec(ctx))
			})
		}},
	{name: "ModelTableExpr of another table, schema or partition", prepare: plainItems, run: inTx(
		func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Item{ID: 1}).ModelTableExpr("tenant.items").Exec(ctx))
		})},
	{name: "a partition by its own name", only: []dialect.Name{dialect.PG}, prepare: itemsMadeBy(
		`CREATE TABLE items (id bigint PRIMARY KEY, name text) PARTITION BY RANGE (id);
		CREATE TABLE items_1 PARTITION OF items DEFAULT`), run: inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.ExecContext(ctx, "INSERT INTO items_1 (id) VALUES (1)"))
	})},
	{name: "a view of a registered table", prepare: itemsMadeBy(createItems + "; CREATE VIEW shown AS SELECT * FROM items"),
		run: inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.ExecContext(ctx, "UPDATE shown SET name = 'x'"))
		})},
	{name: "insert, undone by a rollback to a savepoint", prepare: plainItems, run: inTx(
		func(ctx context.Context, tx bun.Tx) error {
			_ = tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				return errors.Join(insertItem(ctx, tx), errors.New("undo"))
			})
			return nil
		})},
	{name: "insert, undone past bun (tx.Tx)", prepare: plainItems, run: inTx(func(ctx context.Context, tx bun.Tx) error {
		return errors.Join(exec(tx.Tx.ExecContext(ctx, "SAVEPOINT a")), insertItem(ctx, tx),
			exec(tx.Tx.ExecContext(ctx, "ROLLBACK TO SAVEPOINT a")))
	})},
	{name: "insert, then deleted by a function", only: []dialect.Name{dialect.PG}, prepare: itemsMadeBy(createItems +
		"; CREATE FUNCTION gone() RETURNS void LANGUAGE sql AS 'DELETE FROM items'"), run: insertItemThen("SELECT gone()")},
	{name: "insert, then changed by a function, or by a trigger of another table", only: []dialect.Name{dialect.PG}, prepare: itemsMadeBy(
		createItems + "; CREATE FUNCTION pay() RETURNS void LANGUAGE sql AS $$ UPDATE items SET name = 'paid' $$"),
		run: insertItemThen("SELECT pay()")},
	{name: "COMMIT in raw SQL, tx.Commit()", prepare: plainItems, run: insertItemThen("COMMIT")},
	{name: "soft delete by an update of the whole row", prepare: func(f fixture) { f.insert(&File{ID: 2, Name: "f"}) }, run: inTx(
		func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&File{ID: 2, Name: "f", DeletedAt: time.Now()}).WherePK().Exec(ctx))
		})},
	{name: "upsert that sets the key", only: []dialect.Name{dialect.PG, dialect.SQLite}, prepare: plainItems, run: inTx(
		func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Item{ID: 1}).On("CONFLICT (id) DO UPDATE").Set("(id, name) = (5, 'x')").Exec(ctx))
		})},
	{name: "three inserts with one pointer as the key", prepare: func(f fixture) {
		f.raw("CREATE TABLE pointers (id bigint PRIMARY KEY, name varchar(20))")
		require.NoError(f, outbox.Register[pointerKey](f.box, "pointer"))
	}, run: inTx(func(ctx context.Context, tx bun.Tx) error {
		id := new(int64)
		for *id < 3 {
			*id++
			if err := exec(tx.NewInsert().Model(&pointerKey{ID: id}).Exec(ctx)); err != nil {
				return err
			}
		}
		return nil
	})},
	{name: "a model that embeds Tracked and is not registered", prepare: func(f fixture) {
		f.raw("CREATE TABLE strays (id bigint PRIMARY KEY)")
	}, run: inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Stray{ID: 1}).Exec(ctx))
	})},
	{name: "rows of a relation (Relations(\"Lines\")), by their key", prepare: fixture.withLines, run: inTx(
		func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(line(1, 2)).WherePK().Exec(ctx))
		})},
	{name: "rows of a relation by a WHERE", prepare: fixture.withLines, run: inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewDelete().Model((*Line)(nil)).Where("order_id = 1").Exec(ctx))
	})},
	{name: "rows of a relation by raw SQL", prepare: fixture.withLines, run: inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewRaw("DELETE FROM ? WHERE order_id = 1", bun.Ident("lines")).Exec(ctx))
	})},
	{name: "rows of a relation by raw SQL, and Touch", prepare: fixture.withLines, run: inTx(
		func(ctx context.Context, tx bun.Tx) error {
			return errors.Join(exec(tx.NewRaw("DELETE FROM ? WHERE order_id = 1", bun.Ident("lines")).Exec(ctx)),
				outbox.Touch[Order](ctx, tx, 1))
		})},
	{name: "a Serializer that writes a tracked table", prepare: func(f fixture) {
		f.withItems(outbox.Serializer(func(ctx context.Context, tx bun.IDB, rows []*Item) ([]any, error) {
			err := exec(tx.NewInsert().Model(&Note{Slug: "late"}).Exec(ctx))
			return []any{map[string]any{"id": rows[0].ID}}, err
		}))
	}, run: inTx(insertItem)},
	{name: "a transaction of another Box on the same bun.DB", run: func(f fixture) error {
		other, err := outbox.New(f.db, outbox.Config{TablePrefix: "b_"})
		require.NoError(f, err)
		require.NoError(f, other.Migrate(f.Context()))
		return other.RunInTx(f.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Note{Slug: "other"}).Exec(ctx))
		})
	}},
	{name: "a time beyond the year 9999", prepare: func(f fixture) {
		f.raw("CREATE TABLE moments (id bigint PRIMARY KEY, at varchar(60))")
		if f.db.Dialect().Name() == dialect.PG {
			f.raw("ALTER TABLE moments ALTER at TYPE timestamptz USING NULL")
		}
		require.NoError(f, outbox.Register[moment](f.box, "moment"))
	}, only: []dialect.Name{dialect.PG, dialect.SQLite}, run: inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&moment{ID: 1, At: time.Date(12026, 1, 1, 0, 0, 0, 0, time.UTC)}).Exec(ctx))
	})},
	{name: "a correlation id with a NUL", prepare: plainItems, run: func(f fixture) error {
		return f.box.RunInTx(outbox.WithCorrelationID(f.Context(), "a\x00b"), nil, insertItem)
	}},
	{name: "a header named CC", prepare: plainItems, run: func(f fixture) error {
		return f.box.RunInTx(outbox.WithHeaders(f.Context(), map[string]string{"CC": "x"}), nil, insertItem)
	}},
	{name: "Touch(1.5) of an integer key", prepare: plainItems, run: inTx(
		func(ctx context.Context, tx bun.Tx) error { return outbox.Touch[Item](ctx, tx, 1.5) })},
}

type moment struct {
	bun.BaseModel `bun:"table:moments"`
	ID            int64 `bun:",pk"`
	At            time.Time
}
