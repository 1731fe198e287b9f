package outbox_test

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// movers make a trigger that stores an inserted row under another key, a SQL expression. It leaves
// old rows alone.
var movers = map[dialect.Name]func(key string) string{
	dialect.PG: func(key string) string {
		return `CREATE OR REPLACE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$
			BEGIN NEW.id := ` + key + `; RETURN NEW; END $$;
			CREATE TRIGGER move BEFORE INSERT OR UPDATE ON items FOR EACH ROW WHEN (NEW.name <> 'old')
			EXECUTE FUNCTION move()`
	},
	dialect.MySQL: func(key string) string {
		return "CREATE TRIGGER move BEFORE INSERT ON items FOR EACH ROW SET NEW.id = " +
			"IF(NEW.name = 'old', NEW.id, " + key + ")"
	},
	dialect.SQLite: func(key string) string {
		body := " ON items WHEN NEW.name <> 'old' BEGIN UPDATE items SET id = " + key + " WHERE id = NEW.id; END;"
		return "CREATE TRIGGER move AFTER INSERT" + body + "CREATE TRIGGER again AFTER UPDATE" + body
	},
}

// An INSERT of any form either sends each row that it wrote, or does not commit, whatever keys a
// trigger gives its rows, and whichever of the keys have rows already.
func TestRowsThatATriggerMovesAreSentOrRefused(t *testing.T) {
	for i, key := range []string{"NEW.id", "NEW.id + 1", "NEW.id % 3 + 1", "2", "CASE WHEN NEW.id = 1 THEN 4 ELSE NEW.id END"} {
		t.Run(key, func(t *testing.T) {
			each(t, func(f fixture) {
				f.raw(createItems)
				require.NoError(f, outbox.Register[Item](f.box, "item"))
				f.raw(movers[f.db.Dialect().Name()](key))
				committed, refused := f.writesUnderTriggers(rand.New(rand.NewPCG(uint64(i), 22)), 80)
				require.NotZero(f, committed)
				if key == "NEW.id" {
					require.Zero(f, refused, "a trigger that moves nothing costs no statement")
				}
			})
		})
	}
}

// A trigger of a partition moves rows, too.
func TestRowsThatATriggerOfAPartitionMovesAreSentOrRefused(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	f.raw(`CREATE TABLE items (id bigint PRIMARY KEY, name text) PARTITION BY RANGE (id);
		CREATE TABLE items_1 PARTITION OF items FOR VALUES FROM (0) TO (1000)`)
	require.NoError(t, outbox.Register[Item](f.box, "item"))
	f.raw(`CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN NEW.id := NEW.id % 3 + 1; RETURN NEW; END $$;
		CREATE TRIGGER move BEFORE INSERT ON items_1 FOR EACH ROW WHEN (NEW.name <> 'old')
			EXECUTE FUNCTION move()`)
	committed, _ := f.writesUnderTriggers(rand.New(rand.NewPCG(1, 22)), 150)
	require.NotZero(t, committed)
}

// A view has the triggers of the table behind it.
func TestRowsThatATriggerBehindAViewMovesAreSentOrRefused(t *testing.T) {
	for name, trigger := range map[string]string{"none": "", "moves": `
		CREATE FUNCTION move() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN NEW.id := NEW.id % 3 + 1; RETURN NEW; END $$;
		CREATE TRIGGER move BEFORE INSERT ON stored FOR EACH ROW WHEN (NEW.name <> 'old')
			EXECUTE FUNCTION move()`} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, dbtestPostgres(t))
			f.raw(`CREATE TABLE stored (id bigint PRIMARY KEY, name text); CREATE VIEW items AS
				SELECT * FROM stored;` + trigger)
			require.NoError(t, outbox.Register[Item](f.box, "item"))
			committed, refused := f.writesUnderTriggers(rand.New(rand.NewPCG(2, 22)), 100)
			require.NotZero(t, committed)
			require.Equal(t, trigger == "", refused == 0)
		})
	}
}

// writesUnderTriggers runs random writes over a few keys. It counts those that
// committed, and those that cqrsync refused.
func (f fixture) writesUnderTriggers(random *rand.Rand, rounds int) (committed, refused int) {
	f.Helper()
	for round := range rounds {
		f.raw("DELETE FROM items")
		for id := 1; id <= 5; id++ {
			if random.IntN(2) == 0 {
				f.raw(fmt.Sprintf("INSERT INTO items VALUES (%d, 'old')", id))
			}
		}
		before := f.namesOfItems()
		f.take()
		var rows []Item
		for _, id := range random.Perm(4)[:1+random.IntN(3)] {
			rows = append(rows, Item{ID: int64(id + 1), Name: fmt.Sprint("new ", round)})
		}
		statement := ""
		err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
			query := f.randomWrite(random, tx, &rows)
			statement = query.String()
			return exec(query.Exec(ctx))
		})
		if err != nil {
			if strings.Contains(err.Error(), "outbox:") {
				refused++
			}
			continue
		}
		committed++
		sent := map[string]bool{}
		for _, m := range f.take() {
			sent[m.Key] = true
		}
		for id, name := range f.namesOfItems() {
			if before[id] != name {
				require.Contains(f, sent, id, "%s wrote %s, before %v", statement, id, before)
			}
		}
	}
	return committed, refused
}

// bunWrite is a builder's statement.
type bunWrite interface {
	String() string
	Exec(ctx context.Context, dest ...any) (sql.Result, error)
}

func (f fixture) randomWrite(random *rand.Rand, tx bun.Tx, rows *[]Item) bunWrite {
	if f.db.Dialect().Name() == dialect.MySQL || random.IntN(4) > 0 { // MariaDB has no Bulk
		return f.randomInsert(random, tx, rows)
	}
	if random.IntN(2) == 0 {
		return tx.NewUpdate().Model(rows).Column("name").Bulk()
	}
	return tx.NewUpdate().Model(rows).Set("name = ?", (*rows)[0].Name).Where("item.id <> 2").WherePK()
}

func (f fixture) randomInsert(random *rand.Rand, tx bun.Tx, rows *[]Item) *bun.InsertQuery {
	query := tx.NewInsert().Model(rows)
	if len(*rows) == 1 && random.IntN(2) == 0 {
		query = tx.NewInsert().Model(&(*rows)[0])
	}
	upserts := f.db.Dialect().Name() != dialect.MySQL // MariaDB's are refused before they run
	switch kind := random.IntN(4); {
	case kind == 0:
		query = query.Ignore()
	case kind == 1 && upserts:
		query = query.On("CONFLICT (id) DO UPDATE").Set("name = EXCLUDED.name")
	case kind == 2 && upserts:
		query = query.On("CONFLICT (id) DO UPDATE").Set("name = EXCLUDED.name").Where("item.id <> 2")
	}
	if random.IntN(3) == 0 {
		query = query.Returning("*")
	}
	return query
}

func (f fixture) namesOfItems() map[string]string {
	f.Helper()
	var rows []Item
	require.NoError(f, f.db.NewSelect().Model(&rows).Scan(f.Context()))
	names := map[string]string{}
	for _, row := range rows {
		names[strconv.FormatInt(row.ID, 10)] = row.Name
	}
	return names
}
