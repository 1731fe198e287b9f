package outbox_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Code has a text as its key, in a column that takes several texts for equal.
type Code struct {
	bun.BaseModel `bun:"table:codes"`

	Code string `bun:",pk"`
	Name string
}

// Day has a key that a date column stores without its clock.
type Day struct {
	bun.BaseModel `bun:"table:days"`

	Day  time.Time `bun:",pk"`
	Name string
}

// spelling is a column type with two texts for one key of it, and the one that is stored.
type spelling struct{ column, first, second, stored string }

func TestAKeyIsWhatIsStoredHoweverItIsSpelled(t *testing.T) {
	for name, kinds := range map[string]struct {
		url       func(testing.TB) string
		spellings map[string]spelling
	}{
		"postgres": {dbtest.PostgresURL, map[string]spelling{
			"uuid": {"uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "{a0eebc999c0b4ef8bb6d6bb9bd380a11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
			"char": {"char(8)", "Abc", "Abc  ", "Abc     "},
			"case": {`text COLLATE "%s"`, "Abc", "aBC", "Abc"},
			"inet": {"inet", "10.0.0.1/32", "10.0.0.1", "10.0.0.1"},
			"time": {"date", "2026-05-01 10:00:00", "2026-05-01", "2026-05-01T00:00:00Z"},
			"json": {"numeric(6, 2)", "1.5", "1.500", "1.50"},
		}},
		"mariadb": {dbtest.MariaDBURL, map[string]spelling{
			"case":    {"varchar(20) COLLATE utf8mb4_general_ci", "Abc", "aBC", "Abc"},
			"accents": {"varchar(20) COLLATE utf8mb4_general_ci", "Résumé", "resume", "Résumé"},
			"padded":  {"varchar(20)", "Abc", "Abc  ", "Abc"},
			"char":    {"char(8)", "Abc ", "Abc", "Abc"},
			"uuid":    {"uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"},
		}},
		"sqlite": {dbtest.SQLiteURL, map[string]spelling{
			"case":   {"text COLLATE NOCASE", "Abc", "aBC", "Abc"},
			"padded": {"text COLLATE RTRIM", "Abc", "Abc  ", "Abc"},
			"number": {"integer", "7", "07", "7"},
		}},
	} {
		for kind, s := range kinds.spellings {
			t.Run(name+"/"+kind, func(t *testing.T) {
				f := newFixture(t, dbtest.Open(t, kinds.url(t)))
				testSpelling(f, s)
			})
		}
	}
}

func testSpelling(f fixture, s spelling) {
	column := s.column
	if column == `text COLLATE "%s"` {
		f.raw(`CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
		column = "text COLLATE ci"
	}
	f.raw("CREATE TABLE codes (code " + column + " PRIMARY KEY, name varchar(20))")
	require.NoError(f, outbox.Register[Code](f.box, "code"))
	sent := func(want string, steps ...func(ctx context.Context, tx bun.Tx) error) {
		f.Helper()
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			for _, step := range steps {
				if err := step(ctx, tx); err != nil {
					return err
				}
			}
			return nil
		}))
		messages := f.take()
		require.Equal(f, []string{"code " + s.stored + want}, summary(messages))
		require.Contains(f, string(messages[0].Data), `"`+s.stored+`"`)
	}
	insert := func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Code{s.base(), s.first, "a"}).Exec(ctx))
	}
	update := func(spelled string) func(ctx context.Context, tx bun.Tx) error {
		return func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Code{s.base(), spelled, "b"}).Column("name").WherePK().Exec(ctx))
		}
	}
	remove := func(spelled string) func(ctx context.Context, tx bun.Tx) error {
		return func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&Code{Code: spelled}).WherePK().Exec(ctx))
		}
	}
	sent(" 0 SAVE", insert)
	sent(" 1 SAVE", update(s.second))
	sent(" 2 SAVE", update(s.first), update(s.second), update(s.stored))
	sent(" 3 SAVE", func(ctx context.Context, tx bun.Tx) error { return outbox.Touch[Code](ctx, tx, s.second) })
	sent(" 4 SAVE", func(ctx context.Context, tx bun.Tx) error { return f.box.Saved(ctx, tx, &Code{Code: s.first}) })
	sent(" 5 DELETE", remove(s.second))
	sent(" 6 SAVE", insert, update(s.second))
	sent(" 7 DELETE", update(s.first), remove(s.second))
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(remove(s.second)(ctx, tx), insert(ctx, tx))
	}))
	require.Equal(f, []string{"code " + s.stored + " 8 SAVE"}, summary(f.take()))
}

func (spelling) base() bun.BaseModel { return bun.BaseModel{} }

func TestADateColumnsKeyHasNoClock(t *testing.T) {
	each(t, func(f fixture) {
		f.raw("CREATE TABLE days (day date PRIMARY KEY, name text)")
		require.NoError(f, outbox.Register[Day](f.box, "day"))
		err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Day{Day: time.Date(2026, 5, 1, 10, 0, 0, 0, time.UTC), Name: "a"}).Exec(ctx))
		})
		messages := f.take()
		if f.db.Dialect().Name() == dialect.MySQL { // which compares the date with a time
			require.ErrorContains(f, err, "not found at its end")
			require.Empty(f, messages)
			return
		}
		require.NoError(f, err)
		require.Len(f, messages, 1)
		var stored Day
		require.NoError(f, f.db.NewSelect().Model(&stored).Scan(f.Context()))
		require.Contains(f, messages[0].Key, stored.Day.Format(time.DateOnly))
	})
}
