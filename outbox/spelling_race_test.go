package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/outbox"
)

// Transactions at once name, change and delete one row by several spellings of its key. What was
// sent must add up to what is there.
func TestTransactionsAtOnceUnderSeveralSpellingsOfAKey(t *testing.T) {
	each(t, func(f fixture) {
		f.withFoldedCodes()
		const writers, rounds = 4, 25
		var writing sync.WaitGroup
		for w := range writers {
			writing.Go(func() {
				random := rand.New(rand.NewPCG(1, uint64(w)))
				for round := range rounds {
					step := anyStep(f, random, fmt.Sprint(w, " ", round))
					err := f.box.RetryInTx(f.Context(), nil, step)
					if err != nil {
						f.Error(err)
						return
					}
				}
			})
		}
		writing.Wait()
		f.requireAddsUp()
	})
}

// The DELETE finds the row under the spelling that the other transaction gives it meanwhile.
func TestADeleteThatWaitsForAnotherSpellingOfItsKey(t *testing.T) {
	waiting := map[dialect.Name]string{
		dialect.PG: "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%codes%abc%'",
		dialect.MySQL: "SELECT count(*) FROM information_schema.innodb_trx " +
			"WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE '%codes%abc%'",
	}
	each(t, func(f fixture) {
		query := waiting[f.db.Dialect().Name()]
		if query == "" {
			f.Skip("SQLite has one writer at a time")
		}
		f.withFoldedCodes()
		f.insert(&Code{Code: "Abc", Name: "x"})
		deleted := make(chan error, 1)
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.ExecContext(outbox.Explicit(ctx), "UPDATE codes SET code = 'ABC' WHERE code = 'abc'")
			require.NoError(f, err)
			require.NoError(f, f.box.Deleted(ctx, tx, &Code{Code: "Abc"}))
			require.NoError(f, f.box.Saved(ctx, tx, &Code{Code: "ABC"}))
			go func() {
				deleted <- f.inTx(func(ctx context.Context, tx bun.Tx) error {
					return exec(tx.NewDelete().Model(&Code{Code: "abc"}).WherePK().Exec(ctx))
				})
			}()
			require.Eventually(f, func() bool {
				n := 0
				return f.db.DB.QueryRowContext(f.Context(), query).Scan(&n) == nil && n > 0
			}, 20*time.Second, 200*time.Millisecond) // InnoDB keeps its answer for 100 ms after each question
			return nil
		}))
		require.NoError(f, <-deleted)
		f.requireAddsUp()
	})
}

// withFoldedCodes makes the table of Code with a key that takes upper and lower case for equal.
func (f fixture) withFoldedCodes() {
	column := map[dialect.Name]string{
		dialect.PG: "text COLLATE ci", dialect.MySQL: "varchar(20) COLLATE utf8mb4_general_ci",
		dialect.SQLite: "text COLLATE NOCASE",
	}[f.db.Dialect().Name()]
	if f.db.Dialect().Name() == dialect.PG {
		f.raw(`CREATE COLLATION ci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)`)
	}
	f.raw("CREATE TABLE codes (code " + column + " PRIMARY KEY, name varchar(20))")
	require.NoError(f, outbox.Register[Code](f.box, "code"))
}

// anyStep writes the row of one key, in a spelling of it, or gives it another spelling.
func anyStep(f fixture, random *rand.Rand, name string) func(ctx context.Context, tx bun.Tx) error {
	spellings := []string{"abc", "Abc", "ABC", "aBc"}
	given, other := spellings[random.IntN(4)], spellings[random.IntN(4)]
	switch random.IntN(4) {
	case 0:
		return func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Code{Code: given, Name: name}).Ignore().Exec(ctx))
		}
	case 1:
		return func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Code{Code: given, Name: name}).Column("name").WherePK().Exec(ctx))
		}
	case 2:
		return func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&Code{Code: given}).WherePK().Exec(ctx))
		}
	default: // the spelling is what the transaction found, as the page on capture asks for
		return func(ctx context.Context, tx bun.Tx) error {
			var before Code
			query := tx.NewSelect().Model(&before).Where("code = ?", given)
			if tx.Dialect().Name() != dialect.SQLite {
				query = query.For("UPDATE")
			}
			switch err := query.Scan(ctx); {
			case errors.Is(err, sql.ErrNoRows):
				return nil
			case err != nil:
				return err
			}
			explicit := outbox.Explicit(ctx)
			if _, err := tx.ExecContext(explicit, "UPDATE codes SET code = ? WHERE code = ?", other, given); err != nil {
				return err
			}
			if other != before.Code {
				if err := f.box.Deleted(ctx, tx, &before); err != nil {
					return err
				}
			}
			return f.box.Saved(ctx, tx, &Code{Code: other})
		}
	}
}

// requireAddsUp applies what was sent, key by key, and compares it with the table.
func (f fixture) requireAddsUp() {
	f.Helper()
	sent := map[string]string{}
	for _, m := range f.take() {
		delete(sent, m.Key)
		if m.Signal == "SAVE" {
			var row struct{ Code, Name string }
			require.NoError(f, json.Unmarshal(m.Data, &row))
			require.Equal(f, m.Key, row.Code)
			sent[m.Key] = row.Name
		}
	}
	var rows []Code
	require.NoError(f, f.db.NewSelect().Model(&rows).Scan(f.Context()))
	there := map[string]string{}
	for _, row := range rows {
		there[row.Code] = row.Name
	}
	require.Equal(f, there, sent)
}
