package outbox_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

// Jar is registered with boxes that observe only.
type Jar struct {
	bun.BaseModel `bun:"table:jars"`
	outbox.Tracked

	ID     int64 `bun:",pk"`
	Label  string
	Filled time.Time `bun:",nullzero"`
}

// Bottle embeds Tracked, and no box knows it.
type Bottle struct {
	bun.BaseModel `bun:"table:bottles"`
	outbox.Tracked

	ID int64 `bun:",pk"`
}

func observing(log *bytes.Buffer) outbox.Config {
	return outbox.Config{Observe: true, Logger: slog.New(slog.NewTextHandler(log, nil))}
}

// eachObserving has the jars 1 and 2, which are older than the box.
func eachObserving(t *testing.T, test func(f fixture, log *bytes.Buffer)) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		var log bytes.Buffer
		f := newFixtureWith(t, db, observing(&log))
		for _, model := range []any{(*Jar)(nil), (*Bottle)(nil)} {
			require.NoError(t, exec(db.NewCreateTable().Model(model).Exec(t.Context())))
		}
		f.raw("INSERT INTO jars (id, label) VALUES (1, 'a'), (2, 'b')")
		require.NoError(t, outbox.Register[Jar](f.box, "jar"))
		test(f, &log)
	})
}

// final are refusals of what would hang, or take the transaction apart; of what code says to cqrsync
// itself; and of a value that cannot even be read.
var final = []string{
	"it ends the transaction", "the transaction is being committed", "still runs, in a goroutine",
	"has rolled the transaction back", "correlation id", "header ", "touch item", "the database's value is not a time",
}

// What is refused elsewhere runs, and what is captured is captured: for each line of docs/capture.md.
func TestAnObserverChangesNothingButRefusals(t *testing.T) {
	page, err := os.ReadFile("../docs/capture.md")
	require.NoError(t, err)
	statements, inserts, situations := documentedEntries()
	for _, e := range slices.Concat(statements, inserts, situations) {
		for _, d := range documented {
			strict := writtenOutcome(string(page), e.name, d.name, 0)
			if strict == "" {
				continue
			}
			t.Run(e.name+"/"+d.name, func(t *testing.T) {
				t.Parallel()
				observes(t, e, d, strict)
			})
		}
	}
}

// observes checks what becomes of a transaction under an observer, which is strict without one.
func observes(t *testing.T, e entry, d documentedDatabase, strict string) {
	t.Helper()
	f := newFixtureWith(t, dbtest.Open(t, d.url(t)), observing(&bytes.Buffer{}))
	lenient, can := e.try(f)
	if !can { // the database refuses it itself
		require.Positive(t, f.box.Observed().Total)
		return
	}
	isFinal := e.name == "copy" || slices.ContainsFunc(final, func(part string) bool { return strings.Contains(strict, part) })
	switch {
	case !isFinal && (strings.HasPrefix(strict, "refused") || strings.HasPrefix(strict, "not committed")):
		require.NotEqual(t, strict, lenient)
		require.NotContains(t, lenient, "not committed")
		require.Positive(t, f.box.Observed().Total)
	default:
		require.Equal(t, strict, lenient)
		require.Zero(t, f.box.Observed().Total)
	}
}

// Each of these runs, and is counted once. The transaction's other rows are sent.
func TestAnObserverCountsEachRefusalOnce(t *testing.T) {
	eachObserving(t, func(f fixture, _ *bytes.Buffer) {
		ctx, count := f.Context(), int64(0)
		runs := func(name string, err error) {
			f.Helper()
			require.NoError(f, err, name)
			count++
			require.Equal(f, count, f.box.Observed().Total, name)
		}
		inTx := func(name string, write func(tx bun.Tx) error, sent ...string) {
			f.Helper()
			runs(name, f.inTx(func(_ context.Context, tx bun.Tx) error { return write(tx) }))
			require.ElementsMatch(f, sent, summary(f.take()), name)
		}
		label := func(db bun.IDB, text string) error {
			return exec(db.NewUpdate().Model((*Jar)(nil)).Set("label = ?", text).Where("id > 0").Exec(ctx))
		}
		runs("a builder outside", exec(f.db.NewInsert().Model(&Jar{ID: 3}).Exec(ctx)))
		runs("raw SQL outside", exec(f.db.NewRaw("UPDATE jars SET label = 'x'").Exec(ctx)))
		runs("another bun.DB", exec(bun.NewDB(f.db.DB, f.db.Dialect()).NewInsert().Model(&Jar{ID: 4}).Exec(ctx)))
		runs("another transaction", f.db.RunInTx(ctx, nil, func(_ context.Context, tx bun.Tx) error { return label(tx, "y") }))
		runs("a model that nobody knows", exec(f.db.NewInsert().Model(&Bottle{ID: 1}).Exec(ctx)))
		inTx("a model that nobody knows, inside", func(tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&Bottle{ID: 2}).Exec(ctx))
		})
		inTx("an update of many", func(tx bun.Tx) error { return label(tx, "z") })
		inTx("an update of many, beside one", func(tx bun.Tx) error {
			if err := exec(tx.NewUpdate().Model(&Jar{ID: 1, Label: "q"}).WherePK().Exec(ctx)); err != nil {
				return err
			}
			return label(tx, "z")
		}, "jar 1 1 SAVE")
		inTx("a row that raw SQL deletes again", func(tx bun.Tx) error {
			if err := exec(tx.NewUpdate().Model(&Jar{ID: 1, Label: "q"}).WherePK().Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewRaw("DELETE FROM jars WHERE id = 1").Exec(ctx))
		}, "jar 1 2 DELETE")
		inTx("a row that something else deletes again", func(tx bun.Tx) error {
			if err := exec(tx.NewUpdate().Model(&Jar{ID: 2, Label: "q"}).WherePK().Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.Tx.ExecContext(ctx, "DELETE FROM jars WHERE id = 2"))
		})
		inTx("a report that is owed", func(tx bun.Tx) error {
			return exec(tx.NewRaw("UPDATE jars SET label = 'w'").Exec(outbox.Explicit(ctx)))
		})
		f.box.Observed().Sites["mine"] = 1 // is a copy
		require.NotContains(f, f.box.Observed().Sites, "mine")
	})
}

// A value that cannot travel stays here; it is sent with the next change, when it can.
func TestAnObserverCommitsWhatCannotTravel(t *testing.T) {
	eachObserving(t, func(f fixture, _ *bytes.Buffer) {
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			jars := []*Jar{{ID: 7}, {ID: 8}}
			if err := exec(tx.NewInsert().Model(&jars).Exec(ctx)); err != nil {
				return err
			}
			return exec(tx.NewUpdate().Model(&Jar{ID: 7}).Set(map[dialect.Name]string{
				dialect.PG:     "filled = '12000-01-01'",
				dialect.MySQL:  "filled = '0000-05-01'",
				dialect.SQLite: "label = CAST(X'ff' AS TEXT)",
			}[f.db.Dialect().Name()]).WherePK().Exec(ctx))
		}))
		require.Equal(f, []string{"jar 8 0 SAVE"}, summary(f.take()))
		require.Equal(f, int64(1), f.box.Observed().Total)
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewUpdate().Model(&Jar{ID: 7, Label: "even"}).WherePK().Exec(ctx))
		}))
		require.Equal(f, []string{"jar 7 1 SAVE"}, summary(f.take()))
	})
}

// A call site is logged once, however often it calls.
func TestAnObserverLogsEachCallSiteOnce(t *testing.T) {
	eachObserving(t, func(f fixture, log *bytes.Buffer) {
		write := func(db bun.IDB) error {
			return exec(db.NewUpdate().Model((*Jar)(nil)).Set("label = 'x'").Where("id = 1").Exec(f.Context()))
		}
		_, file, line, _ := runtime.Caller(0)
		line -= 2 // where write calls bun
		for range 3 {
			require.NoError(f, write(f.db))
			require.NoError(f, f.inTx(func(_ context.Context, tx bun.Tx) error { return write(tx) }))
		}
		site := fmt.Sprintf("%s:%d", file, line)
		require.Equal(f, map[string]int64{site: 6}, f.box.Observed().Sites)
		require.Equal(f, 1, strings.Count(log.String(), "observe_test.go"), log.String())
		require.Contains(f, log.String(), fmt.Sprintf("%s:%d", filepath.Base(file), line))
		require.NoError(f, write(f.db)) // another one
		require.Len(f, f.box.Observed().Sites, 1)

		log.Reset()
		require.NoError(f, f.box.Check(f.Context()))
		require.Contains(f, log.String(), "Config.Observe is on")
		require.Contains(f, log.String(), `"call sites"=1`)
	})
}

// What would hang, or take the transaction apart, is refused as ever.
func TestAnObserverRefusesWhatIsFinal(t *testing.T) {
	eachObserving(t, func(f fixture, _ *bytes.Buffer) {
		var refused *outbox.RefusedError
		err := f.inTx(func(ctx context.Context, tx bun.Tx) error { return exec(tx.ExecContext(ctx, "COMMIT")) })
		require.ErrorAs(f, err, &refused)
		require.Error(f, f.inTx(func(_ context.Context, tx bun.Tx) error { return tx.Commit() }))
		if f.db.Dialect().Name() == dialect.PG {
			err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.ExecContext(ctx, "PREPARE TRANSACTION 'x'"))
			})
			require.ErrorAs(f, err, &refused)
			err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.ExecContext(ctx, "COPY jars FROM STDIN"))
			})
			require.ErrorAs(f, err, &refused)
			require.ErrorAs(f, exec(f.db.ExecContext(f.Context(), "COPY jars FROM STDIN")), &refused)
		}
		f.db.SetMaxOpenConns(1)
		err = f.inTx(func(ctx context.Context, _ bun.Tx) error {
			return exec(f.db.NewInsert().Model(&Jar{ID: 9}).Exec(ctx))
		})
		require.ErrorAs(f, err, &refused)
		f.db.SetMaxOpenConns(0)
		require.Zero(f, f.box.Observed().Total)
		require.Empty(f, f.take())
	})
}

// A box that does not observe has observed nothing, and refuses beside one that does.
func TestNobodyObservesByDefault(t *testing.T) {
	each(t, func(f fixture) {
		var refused *outbox.RefusedError
		require.ErrorAs(f, exec(f.db.NewInsert().Model(&Order{}).Exec(f.Context())), &refused)
		require.Zero(f, f.box.Observed())
		other := bun.NewDB(dbtest.Open(f.T, dbtest.SQLiteURL(f)).DB, f.db.Dialect())
		observer, err := outbox.New(other, outbox.Config{Observe: true})
		require.NoError(f, err)
		require.NoError(f, outbox.Register[Order](observer, "order"))
		require.ErrorAs(f, exec(f.db.NewInsert().Model(&Order{}).Exec(f.Context())), &refused)
		require.Zero(f, observer.Observed().Total)
	})
}
