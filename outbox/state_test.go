package outbox_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/outbox"
)

// sent runs fn in a transaction and returns the one message's data.
func (f fixture) sent(fn func(ctx context.Context, tx bun.Tx)) map[string]any {
	f.Helper()
	require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error { fn(ctx, tx); return nil }))
	messages := f.take()
	require.Len(f, messages, 1)
	var data map[string]any
	require.NoError(f, json.Unmarshal(messages[0].Data, &data))
	return data
}

// The message carries the row as it is at commit, also where the library could have believed the
// statement.
func TestMessageIsTheRowNotTheStatement(t *testing.T) {
	each(t, func(f fixture) {
		f.insert(&Note{Slug: "n", Text: "old"})
		f.take()
		update := func(ctx context.Context, tx bun.IDB, text string) {
			require.NoError(f, exec(tx.NewUpdate().Model(&Note{Slug: "n", Text: text}).WherePK().Exec(ctx)))
		}
		data := f.sent(func(ctx context.Context, tx bun.Tx) {
			update(ctx, tx, "kept")
			err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
				update(ctx, tx, "undone")
				return errors.New("no")
			})
			require.Error(f, err)
		})
		require.Equal(f, "kept", data["text"], "a savepoint was rolled back")

		data = f.sent(func(ctx context.Context, tx bun.Tx) {
			update(ctx, tx, "first")
			require.NoError(f, exec(tx.NewUpdate().Model(&Note{Slug: "n"}).Set("text = concat(text, '!')").WherePK().Exec(ctx)))
		})
		require.Equal(f, "first!", data["text"], "an expression came after")

		data = f.sent(func(ctx context.Context, tx bun.Tx) {
			update(ctx, tx, "first")
			require.NoError(f, exec(tx.ExecContext(outbox.Explicit(ctx), "UPDATE notes SET text = 'raw'")))
			require.NoError(f, f.box.Saved(ctx, tx, &Note{Slug: "n"}))
		})
		require.Equal(f, "raw", data["text"], "a reported statement came after")

		data = f.sent(func(ctx context.Context, tx bun.Tx) {
			require.NoError(f, exec(tx.NewInsert().Model(&Note{Slug: "v"}).Value("text", "upper(?)", "x").Exec(ctx)))
		})
		require.Equal(f, "X", data["text"], "an expression was inserted")

		f.insert(&Note{Slug: "d", Text: "a"})
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&Note{Slug: "d"}).WherePK().Exec(ctx))
		}))
		f.insert(&Note{Slug: "d", Text: "b"})
		require.Equal(f, []string{"note d 0 SAVE", "note d 1 DELETE", "note d 2 SAVE"}, summary(f.take()))
		require.NoError(f, f.inTx(func(ctx context.Context, tx bun.Tx) error {
			return exec(tx.NewDelete().Model(&Note{Slug: "d"}).WherePK().Exec(ctx))
		}))
		require.Equal(f, []string{"note d 3 DELETE"}, summary(f.take()), "created again means live again")
	})
}

type Price struct {
	bun.BaseModel `bun:"table:prices"`
	outbox.Tracked

	ID     int64 `bun:",pk"`
	Amount float64
	Code   string
}

func TestMessageIsWhatTheDatabaseMadeOfTheRow(t *testing.T) {
	for name, ddl := range map[string]string{
		"a column that rounds": `CREATE TABLE prices (id bigint PRIMARY KEY, amount numeric(10, 1), code text)`,
		"a trigger": `CREATE TABLE prices (id bigint PRIMARY KEY, amount double precision, code text);
			CREATE FUNCTION round_it() RETURNS trigger LANGUAGE plpgsql AS
				$$ BEGIN NEW.amount = round(NEW.amount::numeric, 1); RETURN NEW; END $$;
			CREATE TRIGGER round_it BEFORE INSERT OR UPDATE ON prices FOR EACH ROW EXECUTE FUNCTION round_it()`,
		"a rule": `CREATE TABLE prices_table (id bigint PRIMARY KEY, amount numeric(10, 1), code text);
			CREATE VIEW prices AS SELECT * FROM prices_table`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, dbtestPostgres(t))
			_, err := f.db.ExecContext(t.Context(), ddl)
			require.NoError(t, err)
			require.NoError(t, outbox.Register[Price](f.box, "price"))
			data := f.sent(func(ctx context.Context, tx bun.Tx) {
				require.NoError(t, exec(tx.NewInsert().Model(&Price{ID: 1, Amount: 1.25, Code: "x"}).Exec(ctx)))
			})
			require.Equal(t, map[string]any{"id": 1.0, "amount": 1.3, "code": "x"}, data)
		})
	}
}

// What is sent without reading must be what reading would have sent.
func TestKnownStatesAreSentLikeReadOnes(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	ctx := outbox.WithMeta(outbox.WithCorrelationID(t.Context(), "it's"), map[string]any{"a": 1})
	notes := []Note{{Slug: "b", Text: "it's ? \\ \" ünï"}, {Slug: "a"}}
	insert := func(ctx context.Context, tx bun.Tx) error { return exec(tx.NewInsert().Model(&notes).Exec(ctx)) }
	update := func(ctx context.Context, tx bun.Tx) error { return exec(tx.NewUpdate().Model(&notes).Bulk().Exec(ctx)) }
	touch := func(ctx context.Context, tx bun.Tx) error { return outbox.Touch[Note](ctx, tx, "a", "b") }
	var rows []string
	for _, write := range []func(context.Context, bun.Tx) error{insert, update, touch} {
		require.NoError(t, f.box.RunInTx(ctx, nil, write))
		var messages []string
		require.NoError(t, f.db.NewSelect().Table("outbox_messages").
			ColumnExpr("concat_ws('|', key, pk, data, meta, headers, correlation_id, signal, queue, previous)").
			Order("id").Scan(ctx, &messages))
		rows = append(rows, messages...)
		require.Len(t, f.take(), 2)
	}
	require.Equal(t, rows[:2], rows[2:4])
	require.Equal(t, rows[:2], rows[4:])
	var revisions []int64
	require.NoError(t, f.db.NewSelect().Table("outbox_revisions").Column("revision").Scan(ctx, &revisions))
	require.Equal(t, []int64{2, 2}, revisions)
}
