package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

type Account struct {
	bun.BaseModel `bun:"table:accounts"`
	outbox.Tracked

	ID     int64 `bun:",pk"`
	Name   string
	Secret string
	Open   bool
}

// accounts runs test with the account model registered under the options.
func accounts(t *testing.T, test func(f fixture), options ...outbox.Option) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.NewCreateTable().Model((*Account)(nil)).Exec(t.Context())
		require.NoError(t, err)
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Account](box, "account", options...))
		require.NoError(t, box.Migrate(t.Context()))
		test(fixture{t, db, box})
	})
}

func (f fixture) save(a *Account) {
	f.Helper()
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		result, err := tx.NewUpdate().Model(a).WherePK().Exec(ctx)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return exec(tx.NewInsert().Model(a).Exec(ctx))
	}))
}

func (f fixture) remove(a *Account) {
	f.Helper()
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewDelete().Model(a).WherePK().Exec(ctx))
	}))
}

func TestColumnsChooseWhatIsSent(t *testing.T) {
	for name, option := range map[string]outbox.Option{
		"Columns":        outbox.Columns("name", "open"),
		"WithoutColumns": outbox.WithoutColumns("secret"),
	} {
		t.Run(name, func(t *testing.T) {
			accounts(t, func(f fixture) {
				f.save(&Account{ID: 1, Name: "Ann", Secret: "x"})
				require.JSONEq(f, `{"id":1,"name":"Ann","open":false}`, string(f.take()[0].Data))
			}, option)
		})
	}
}

func TestFilterSendsADeleteWhenARowLeavesIt(t *testing.T) {
	isOpen := outbox.Filter(func(a *Account) bool { return a.Open })
	accounts(t, func(f fixture) {
		f.save(&Account{ID: 1})
		require.Empty(f, f.take(), "never in the filter: nothing is sent")
		f.save(&Account{ID: 1, Open: true})
		f.save(&Account{ID: 1, Open: false})
		f.save(&Account{ID: 1, Open: false, Name: "still closed"})
		f.save(&Account{ID: 1, Open: true})
		f.remove(&Account{ID: 1})
		messages := f.take()
		require.Equal(f, []string{
			"account 1 1 SAVE", "account 1 2 DELETE", "account 1 4 SAVE", "account 1 5 DELETE",
		}, summary(messages), "the revision counts what is not sent")
		var after []any
		for _, m := range messages {
			if m.After == nil {
				after = append(after, nil)
			} else {
				after = append(after, *m.After)
			}
		}
		require.Equal(f, []any{nil, int64(1), int64(2), int64(4)}, after, "and after names what was sent")
		f.save(&Account{ID: 2})
		f.remove(&Account{ID: 2})
		require.Empty(f, f.take(), "a row that was never sent is not deleted on replicas")
	}, isOpen)

	accounts(t, func(f fixture) {
		f.save(&Account{ID: 1, Open: true})
		f.save(&Account{ID: 1, Open: false})
		f.remove(&Account{ID: 1})
		require.Equal(f, []string{"account 1 0 SAVE", "account 1 2 DELETE"}, summary(f.take()))
	}, isOpen, outbox.FilterKeepsCopies())
}

func TestPreviousValuesAreThoseBeforeTheTransaction(t *testing.T) {
	accounts(t, func(f fixture) {
		f.save(&Account{ID: 1, Name: "a", Secret: "s"})
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			for _, name := range []string{"b", "c"} {
				a := &Account{ID: 1, Name: name}
				require.NoError(f, exec(tx.NewUpdate().Model(a).Column("name").WherePK().Exec(ctx)))
			}
			return nil
		}))
		f.save(&Account{ID: 1, Name: "c", Secret: "t"})
		f.remove(&Account{ID: 1})
		f.save(&Account{ID: 1, Name: "d"})
		var previous []string
		require.NoError(f, f.db.NewSelect().Table("outbox_messages").
			ColumnExpr("coalesce(previous, 'null')").Order("id").Scan(f.Context(), &previous))
		require.Len(f, previous, 5)
		require.JSONEq(f, `{"name":null,"open":null}`, previous[0], "as django-cqrs does for a new row")
		require.JSONEq(f, `{"name":"a"}`, previous[1])
		require.Equal(f, "null", previous[2], "no tracked column changed")
		require.Equal(f, "null", previous[3])
		require.JSONEq(f, `{"name":null,"open":null}`, previous[4])
	}, outbox.TrackPrevious("name", "open"))
}

func TestSerializerGetsAllRowsAtOnce(t *testing.T) {
	var batches []int
	serializer := outbox.Serializer(func(ctx context.Context, tx bun.IDB, rows []*Account) ([]any, error) {
		batches = append(batches, len(rows))
		n, err := tx.NewSelect().Model((*Account)(nil)).Count(ctx)
		objects := make([]any, len(rows))
		for i, a := range rows {
			objects[i] = map[string]any{"id": a.ID, "title": "<" + a.Name + ">", "of": n}
		}
		return objects, err
	})
	t.Run("batch", func(t *testing.T) {
		f := newAccounts(t, serializer)
		require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewInsert().Model(&[]Account{{ID: 1, Name: "a"}, {ID: 2, Name: "b"}}).Exec(ctx))
		}))
		messages := f.take()
		require.Equal(t, `{"id":2,"of":2,"title":"<b>"}`, string(messages[1].Data))
		require.Equal(t, []int{2}, batches)
	})
	for name, c := range map[string]struct {
		objects []any
		want    string
	}{
		"too few":       {nil, "0 objects for 1 rows"},
		"not an object": {[]any{1}, "does not marshal to a JSON object"},
		"without a key": {[]any{map[string]any{"x": 1}}, `lacks the primary key "id"`},
		"not for JSON":  {[]any{map[string]any{"id": func() {}}}, "unsupported type"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newAccounts(t, outbox.Serializer(func(context.Context, bun.IDB, []*Account) ([]any, error) { return c.objects, nil }))
			err := f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Account{ID: 1}).Exec(ctx))
			})
			require.ErrorContains(t, err, c.want)
			require.Empty(t, f.take())
		})
	}
}

func newAccounts(t *testing.T, options ...outbox.Option) fixture {
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	_, err := db.NewCreateTable().Model((*Account)(nil)).Exec(t.Context())
	require.NoError(t, err)
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Account](box, "account", options...))
	require.NoError(t, box.Migrate(t.Context()))
	return fixture{t, db, box}
}

func TestMetaCorrelationHeadersExpiryAndDeleteData(t *testing.T) {
	accounts(t, func(f fixture) {
		ctx := outbox.WithMeta(outbox.WithCorrelationID(f.Context(), "req-42"), map[string]any{"who": "ann"})
		for _, write := range []func(ctx context.Context, tx bun.Tx) error{
			func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewInsert().Model(&Account{ID: 1, Name: "Ann"}).Exec(ctx))
			},
			func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewDelete().Model(&Account{ID: 1, Name: "Ann"}).WherePK().Exec(ctx))
			},
		} {
			require.NoError(f, f.box.RunInTx(ctx, nil, write))
		}
		var rows []struct {
			Data, Meta, CorrelationID string
			Expires                   bool
		}
		require.NoError(f, f.db.NewSelect().Table("outbox_messages").Column("data", "meta", "correlation_id").
			ColumnExpr("expires_at IS NOT NULL AS expires").Order("id").Scan(f.Context(), &rows))
		require.Len(f, rows, 2)
		require.JSONEq(f, `{"who":"ann","source":"test"}`, rows[0].Meta)
		require.Equal(f, "req-42", rows[0].CorrelationID)
		require.True(f, rows[0].Expires)
		require.False(f, rows[1].Expires, "a DELETE does not expire")
		require.JSONEq(f, `{"id":1,"custom":{"name":"Ann"}}`, rows[1].Data)
	},
		outbox.Meta(func(context.Context) map[string]any { return map[string]any{"source": "test", "who": "nobody"} }),
		outbox.ExpireAfter(time.Hour),
		outbox.DeleteData(func(_ context.Context, a *Account) map[string]any { return map[string]any{"name": a.Name} }))
}

func TestHeadersComeFromTheContext(t *testing.T) {
	type traceKey struct{}
	headersOf := func(ctx context.Context) map[string]string {
		trace, _ := ctx.Value(traceKey{}).(string)
		if trace == "" {
			return nil
		}
		return map[string]string{"traceparent": trace, "tenant": "default"}
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		for _, table := range []any{(*Account)(nil), (*Note)(nil)} {
			require.NoError(t, exec(db.NewCreateTable().Model(table).Exec(t.Context())))
		}
		box, err := outbox.New(db, outbox.Config{Headers: headersOf})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Account](box, "account", outbox.TrackPrevious("name"))) // is read
		require.NoError(t, outbox.Register[Note](box, "note"))                                     // may not be
		require.NoError(t, box.Migrate(t.Context()))
		write := func(ctx context.Context, key int64) error {
			return box.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				return errors.Join(
					exec(tx.NewInsert().Model(&Account{ID: key}).Exec(ctx)), exec(tx.NewInsert().Model(&Note{Slug: fmt.Sprint(key)}).Exec(ctx)))
			})
		}
		const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		ctx := outbox.WithHeaders(context.WithValue(t.Context(), traceKey{}, trace), map[string]string{"tenant": "it's 7"})
		require.NoError(t, write(ctx, 1))
		require.NoError(t, write(t.Context(), 2))
		var headers []string
		require.NoError(t, db.NewSelect().Table("outbox_messages").ColumnExpr("coalesce(headers, 'null')").Order("id").Scan(t.Context(), &headers))
		require.Len(t, headers, 4)
		for i := range 2 {
			require.JSONEq(t, `{"traceparent":"`+trace+`","tenant":"it's 7"}`, headers[i])
			require.Equal(t, "null", headers[i+2])
		}
		err = write(outbox.WithHeaders(t.Context(), map[string]string{"cqrs_revision": "9"}), 3)
		require.ErrorContains(t, err, `header "cqrs_revision"`)
	})
}

func TestSilentModelCountsAndSendsNothing(t *testing.T) {
	accounts(t, func(f fixture) {
		f.save(&Account{ID: 1})
		f.save(&Account{ID: 1, Name: "b"})
		f.remove(&Account{ID: 1})
		f.save(&Account{ID: 1})
		require.Empty(f, f.take())
		var revision int64
		var deleted bool
		require.NoError(f, f.db.NewSelect().Table("outbox_revisions").Column("revision", "deleted").Scan(f.Context(), &revision, &deleted))
		require.EqualValues(f, 3, revision)
		require.False(f, deleted)
	}, outbox.Silent())
}

func TestOptionErrorsNameTheOptionAndTheValue(t *testing.T) {
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	err = outbox.Register[Account](box, "account",
		outbox.Columns("nope"), outbox.WithoutColumns("id"), outbox.TrackPrevious("nix"), outbox.ExpireAfter(-1),
		outbox.Filter(func(*Order) bool { return true }),
		outbox.Serializer(func(context.Context, bun.IDB, []*Order) ([]any, error) { return nil, nil }))
	for _, part := range []string{
		`Columns: Account has no column "nope"`, "WithoutColumns: id is the primary key", `TrackPrevious: Account has no column "nix"`,
		"ExpireAfter(-1ns)", "Filter: its function takes a outbox_test.Order", "Serializer: its function takes a outbox_test.Order",
	} {
		require.ErrorContains(t, err, part)
	}
}

func TestEveryRevisionKeepsMessagesFromBeingReplaced(t *testing.T) {
	for name, test := range map[string]struct {
		options []outbox.Option
		keep    bool
	}{
		"by default a newer state replaces an unsent one": {nil, false},
		"EveryRevision":                     {[]outbox.Option{outbox.EveryRevision()}, true},
		"TrackPrevious implies it":          {[]outbox.Option{outbox.TrackPrevious("name")}, true},
		"also where the row has to be read": {[]outbox.Option{outbox.EveryRevision(), outbox.ExpireAfter(time.Hour)}, true},
	} {
		t.Run(name, func(t *testing.T) {
			accounts(t, func(f fixture) {
				f.save(&Account{ID: 1, Name: "a"})
				f.save(&Account{ID: 1, Name: "b"})
				f.remove(&Account{ID: 1})
				var kept []bool
				require.NoError(t, f.db.NewSelect().Table("outbox_messages").Column("keep").Scan(f.Context(), &kept))
				require.Equal(t, []bool{test.keep, test.keep, test.keep}, kept)
			}, test.options...)
		})
	}
}
