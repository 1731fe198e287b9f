package outbox_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// statusOf is what a SAVE of an order says.
func statusOf(m message) string {
	var status string
	_, _ = fmt.Sscanf(string(m.Data), `{"id":`+m.Key+`,"number":%q,"status":%q`, new(string), &status)
	return status
}

// ids are those of a table's rows, in order.
func (f fixture) ids(table string) (ids []string) {
	f.Helper()
	require.NoError(f, f.db.NewSelect().Table(table).Column("id").Scan(f.Context(), &ids))
	slices.Sort(ids)
	return ids
}

// sentOrRefused runs fn and checks what holds for every statement: each row that came to be in the
// table has a SAVE under its own key, or nothing was committed.
func (f fixture) sentOrRefused(table string, fn func(ctx context.Context, tx bun.Tx) error) (keys []string, err error) {
	f.Helper()
	before := f.ids(table)
	err = f.inTx(fn)
	messages := f.take()
	for _, m := range messages {
		require.Equal(f, "SAVE", m.Signal)
		keys = append(keys, m.Key)
	}
	slices.Sort(keys)
	after := slices.DeleteFunc(f.ids(table), func(id string) bool { return slices.Contains(before, id) })
	require.ElementsMatch(f, after, keys)
	if err != nil {
		require.Empty(f, after)
	}
	return keys, err
}

// insertCase is one way to write an INSERT into orders that hold 1 and 2.
type insertCase struct {
	name    string
	insert  func(ctx context.Context, tx bun.Tx) error
	keys    []string // of the messages, if they are the same everywhere
	refused string
}

func one() *Order   { return &Order{Number: "n"} }
func two() *[]Order { return &[]Order{{Number: "n"}, {Number: "m"}} }

var inserts = []insertCase{
	{name: `Returning("NULL")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(one()).Returning("NULL").Exec(ctx))
	}, keys: []string{"3"}},
	{name: `Returning("")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(one()).Returning("").Exec(ctx))
	}, keys: []string{"3"}},
	{name: `Returning("status")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(one()).Returning("status").Exec(ctx))
	}, keys: []string{"3"}},
	{name: `Returning("id"), Exec(ctx, &id)`, insert: func(ctx context.Context, tx bun.Tx) error {
		var id int64
		return exec(tx.NewInsert().Model(one()).Returning("id").Exec(ctx, &id))
	}, keys: []string{"3"}},
	{name: `Returning("id"), Scan(ctx, &id)`, insert: func(ctx context.Context, tx bun.Tx) error {
		var id int64
		return tx.NewInsert().Model(one()).Returning("id").Scan(ctx, &id)
	}, keys: []string{"3"}},
	{name: `Returning("id"), a Scan that fails`, insert: func(ctx context.Context, tx bun.Tx) error {
		var id bool
		_ = tx.NewInsert().Model(one()).Returning("number").Scan(ctx, &id)
		return nil
	}, keys: []string{"3"}},
	{name: `Returning("1 AS id")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(one()).Returning("1 AS id").Exec(ctx))
	}, keys: []string{"3"}},
	{name: `ExcludeColumn("id") of a model with another's id`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Order{ID: 1, Number: "n"}).ExcludeColumn("id").Exec(ctx))
	}, keys: []string{"3"}},
	{name: `Column("number") of a model with another's id`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Order{ID: 1, Number: "n"}).Column("number").Returning("NULL").Exec(ctx))
	}, keys: []string{"3"}},
	{name: `Value("id", "41")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(one()).Value("id", "41").Exec(ctx)) // which bun leaves out on SQLite
	}},
	{name: `Value("id", "40 + 1") of a model with another's id`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Order{ID: 1, Number: "n"}).Value("id", "40 + 1").Exec(ctx))
	}, keys: []string{"41"}},
	{name: `Value("number", …) with parentheses and quotes`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&[]Order{{ID: 7, Number: "), ('"}, {ID: 8}}).
			Value("status", "replace('a), (', ',', ?)", "it's").Exec(ctx))
	}, keys: []string{"7", "8"}},
	{name: `a slice, Returning("number")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(two()).Returning("number").Exec(ctx))
	}, refused: "draws keys of several rows"},
	{name: `a slice, Returning("NULL")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(two()).Returning("NULL").Exec(ctx))
	}, refused: "draws keys of several rows"},
	{name: `a slice, Exec(ctx, &ids)`, insert: func(ctx context.Context, tx bun.Tx) error {
		var ids []int64
		return exec(tx.NewInsert().Model(two()).Returning("id").Exec(ctx, &ids))
	}, refused: "did not bring them back"},
	{name: `a slice with keys, Returning("number")`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&[]Order{{ID: 9, Number: "x"}, {ID: 8, Number: "y"}}).Returning("number").Exec(ctx))
	}, keys: []string{"8", "9"}},
	{name: `a slice, one with a key`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&[]Order{{ID: 9, Number: "x"}, {Number: "y"}}).Exec(ctx))
	}},
	{name: `a comment in an expression`, insert: func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(one()).Value("status", "'x' /* ), ( */").Exec(ctx))
	}, refused: "cannot be read"},
}

func TestInsertedRowsAreCapturedWhereverTheirKeysGo(t *testing.T) {
	for _, c := range inserts {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(f fixture) {
				f.insert(&[]Order{{Number: "a"}, {Number: "b"}})
				f.take()
				keys, err := f.sentOrRefused("orders", c.insert)
				if c.refused != "" {
					require.ErrorContains(f, err, c.refused)
					return
				}
				require.NoError(f, err)
				if c.keys != nil {
					require.Equal(f, c.keys, keys)
				}
			})
		})
	}
}

// Drawn has a key that the database draws in a way bun does not know.
type Drawn struct {
	bun.BaseModel `bun:"table:drawn"`

	ID   string `bun:",pk,nullzero"`
	Name string
}

func TestKeysDrawnByADefaultAreCapturedOrRefused(t *testing.T) {
	each(t, func(f fixture) {
		f.run(map[dialect.Name]string{
			dialect.PG:     "CREATE TABLE drawn (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text)",
			dialect.MySQL:  "CREATE TABLE drawn (id varchar(40) PRIMARY KEY DEFAULT uuid(), name text)",
			dialect.SQLite: "CREATE TABLE drawn (id text PRIMARY KEY DEFAULT (hex(randomblob(8))), name text)",
		})
		require.NoError(f, outbox.Register[Drawn](f.box, "drawn"))
		for _, returning := range []string{"id", "*", "NULL"} {
			_, err := f.sentOrRefused("drawn", func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Drawn{Name: "n"}).ExcludeColumn("id").Returning(returning).Exec(ctx))
			})
			if returning != "NULL" || f.db.Dialect().Name() == dialect.SQLite { // which knows the last row
				require.NoError(f, err, returning)
			} else {
				require.ErrorContains(f, err, "did not bring them back")
			}
		}
	})
}

// Shifted is stored under another key than an INSERT names.
type Shifted struct {
	bun.BaseModel `bun:"table:shifted"`

	ID   int64 `bun:",pk"`
	Name string
}

func TestKeysChangedByATriggerAreCapturedOrRefused(t *testing.T) {
	each(t, func(f fixture) {
		f.run(map[dialect.Name]string{
			dialect.PG: `CREATE TABLE shifted (id bigint PRIMARY KEY, name text);
				CREATE FUNCTION shift() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.id := NEW.id + 100; RETURN NEW; END $$;
				CREATE TRIGGER shift BEFORE INSERT ON shifted FOR EACH ROW EXECUTE FUNCTION shift()`,
			dialect.MySQL:  "CREATE TABLE shifted (id bigint PRIMARY KEY, name text)",
			dialect.SQLite: "CREATE TABLE shifted (id bigint PRIMARY KEY, name text)",
		})
		switch f.db.Dialect().Name() {
		case dialect.MySQL:
			f.raw("CREATE TRIGGER shift BEFORE INSERT ON shifted FOR EACH ROW SET NEW.id = NEW.id + 100")
		case dialect.SQLite:
			f.raw("CREATE TRIGGER shift AFTER INSERT ON shifted BEGIN UPDATE shifted SET id = id + 100 WHERE id = NEW.id; END")
		}
		require.NoError(f, outbox.Register[Shifted](f.box, "shifted"))
		insert := func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Shifted{ID: 1}).Exec(ctx))
		}
		_, err := f.sentOrRefused("shifted", insert)
		require.ErrorContains(f, err, "not found at its end")

		f.raw("INSERT INTO shifted (id) VALUES (-99)") // stored as 1: the flush would take it for the new one
		require.Equal(f, []string{"1"}, f.ids("shifted"))
		_, err = f.sentOrRefused("shifted", insert)
		require.Error(f, err)

		if f.db.Dialect().Name() != dialect.SQLite { // where only an AFTER trigger changes a row, and two rows of a key collide
			require.ErrorContains(f, err, "may have given its rows other keys")
			keys, err := f.sentOrRefused("shifted", func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Shifted{ID: 1}).Returning("*").Exec(ctx))
			})
			require.NoError(f, err)
			require.Equal(f, []string{"101"}, keys)
		}
	})
}

// RETURNING writes over the caller's model before anybody can read its keys.
func TestReturningDoesNotHideWhichRowsWereWritten(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&[]Order{{Number: "a", Status: "new"}, {Number: "b", Status: "new"}})
		f.take()
		written := func(want []string, fn func(ctx context.Context, tx bun.Tx) error) {
			f.Helper()
			require.NoError(f, f.inTx(fn))
			require.Equal(f, want, summary(f.take()))
		}
		f.onlyWithUpdateReturning(func() {
			require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
				rows := []Order{{ID: 1}, {ID: 2}}
				return exec(tx.NewUpdate().Model(&rows).Set("status = 'x'").WherePK().Where("number = 'b'").Returning("status").Exec(ctx))
			}))
			messages := f.take()
			require.Equal(f, "order 2 1 SAVE", summary(messages)[len(messages)-1])
			require.Equal(f, "x", statusOf(messages[len(messages)-1]))
			written([]string{"order 1 2 SAVE"}, func(ctx context.Context, tx bun.Tx) error {
				order := Order{ID: 1}
				return exec(tx.NewUpdate().Model(&order).Set("status = 'y'").WherePK().Returning("2 AS id").Exec(ctx))
			})
		})
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			if err := exec(tx.NewDelete().Model(&[]Order{{ID: 1}}).WherePK().Returning("number").Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewDelete().Model(&Order{ID: 2}).WherePK().Returning("3 AS id").Exec(ctx))
		}))
		deleted := f.take()
		require.Len(f, deleted, 2)
		for i, m := range deleted {
			require.Equal(f, fmt.Sprint(i+1), m.Key)
			require.Equal(f, "DELETE", m.Signal)
		}
	})
}
