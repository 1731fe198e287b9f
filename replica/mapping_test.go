package replica_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
)

func TestConstantAndComputedColumns(t *testing.T) {
	type Row struct {
		ID     int64 `bun:",pk"`
		Text   string
		Source string
		Length int64
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note", replica.Constant("source", "it's ours"),
			replica.Computed("length", func(fields replica.Fields) (any, error) {
				raw, ok := fields.Values["text"]
				if !ok {
					return nil, errors.New("no text")
				}
				return int64(len(raw) - 2), nil
			}))
		f.deliver(msg(envelope.Save, 1, 0, `"text":"four","source":"theirs"`), msg(envelope.Save, 2, 0, `"other":1`))
		require.Equal(t, Row{1, "four", "it's ours", 4}, one[Row](t, db, "id = 1"))
		require.Contains(t, f.deadLetters()[0].Error, `compute column "length": no text`)
	})
}

func TestRequiredFieldsAreNamedTogether(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note", replica.Required("text", "author", "at"))
	m := msg(envelope.Save, 1, 0, `"text":"a","at":null`)
	m.Key = "1"
	f.deliver(m, del(2, 0))
	require.Len(t, f.deadLetters(), 1)
	require.Contains(t, f.deadLetters()[0].Error, `required fields are missing: "author", "at"`)
}

// A column that SQLite reads as a number keeps 15 digits. Whatever has more is refused by name, and
// whatever has not is taken.
func TestADecimalThatSQLiteWouldRoundIsRefused(t *testing.T) {
	type Price struct {
		bun.BaseModel `bun:"table:prices"`

		ID     int64 `bun:",pk"`
		Amount string
	}
	const long = "12.340000000000000000001"
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	f := newFixture(t, db)
	require.NoError(t, replica.Register[Price](f.Replica, "price"))
	_, err := db.ExecContext(t.Context(), "CREATE TABLE prices (id integer PRIMARY KEY, amount numeric)")
	require.NoError(t, err)
	f.deliver(of("price", envelope.Save, "2", 0, `"amount":"`+long+`"`))
	letters := f.deadLetters()
	require.Len(t, letters, 1)
	require.Contains(t, letters[0].Error, "declare it text")
	f.deliver(of("price", envelope.Save, "1", 0, `"amount":"12.34"`))
	require.Equal(t, "12.34", one[Price](t, db, "id = 1").Amount)

	_, err = db.ExecContext(t.Context(), "DROP TABLE prices; CREATE TABLE prices (id integer PRIMARY KEY, amount text)")
	require.NoError(t, err)
	g := newFixture(t, db)
	require.NoError(t, replica.Register[Price](g.Replica, "price"))
	g.deliver(of("price", envelope.Save, "3", 0, `"amount":"`+long+`"`))
	require.Equal(t, long, one[Price](t, db, "id = 3").Amount)
}

type Invoice struct {
	ID    int64 `bun:",pk"`
	Text  string
	Lines []*Line `bun:"rel:has-many,join:id=invoice_id"`
}

type Line struct {
	InvoiceID int64 `bun:",pk"`
	Number    int64 `bun:",pk"`
	Product   string
	Note      *string
}

func TestChildrenReplaceTheSet(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		_, err := db.NewCreateTable().Model((*Line)(nil)).Exec(t.Context())
		require.NoError(t, err)
		mirror[Invoice](f, "invoice", replica.Children("Lines"), replica.Rename("items", "lines"))
		invoice := func(id string, revision int64, fields string) *envelope.Message {
			return of("invoice", envelope.Save, id, revision, fields)
		}
		lines := func() string {
			var rows []Line
			require.NoError(t, db.NewSelect().Model(&rows).Order("invoice_id", "number").Scan(t.Context()))
			var texts []string
			for _, l := range rows {
				texts = append(texts, l.Product)
			}
			return strings.Join(texts, " ")
		}
		f.together(
			invoice("1", 0, `"text":"a","items":[{"number":1,"product":"pen","invoice_id":99},{"number":2,"product":"it's","note":"n"}]`),
			invoice("2", 0, `"text":"b","items":[{"number":1,"product":"ink"}]`))
		require.Equal(t, "pen it's ink", lines())
		f.deliver(invoice("1", 1, `"text":"c"`))
		require.Equal(t, "pen it's ink", lines(), "a message that says nothing of them leaves them")
		f.deliver(invoice("1", 2, `"items":[{"number":2,"product":"cap"}]`))
		require.Equal(t, "cap ink", lines())
		f.deliver(invoice("2", 1, `"items":null`))
		require.Equal(t, "cap", lines())
		f.deliver(of("invoice", envelope.Delete, "1", 3, ""))
		require.Empty(t, lines())
		require.Empty(t, f.deadLetters())

		f.deliver(invoice("3", 0, `"items":[{"number":"x"}]`), invoice("4", 0, `"items":{}`))
		require.Len(t, f.deadLetters(), 2)
		require.Contains(t, f.deadLetters()[0].Error, `field "items": 0: "number": int64 does not hold the value`)
		require.Contains(t, f.deadLetters()[1].Error, `field "items": want a list of objects`)
	})
}

func TestMappingErrorsSayWhatToDo(t *testing.T) {
	rep, err := replica.New(dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{Queue: "q"})
	require.NoError(t, err)
	require.ErrorContains(t, replica.Register[Note](rep, "a", replica.Constant("no", 1)), `Constant or Computed("no"): the struct has no such column`)
	require.ErrorContains(t, replica.Register[Note](rep, "b", replica.Children("Lines")), `Children("Lines"): the struct has no such relation`)
	require.ErrorContains(t, replica.Register[Note](rep, "c", replica.WithRetry(replica.RetryPolicy{Attempts: -1})), "Retry.Attempts is -1")
}

func TestAMessageWithoutAKeySaysSo(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	body := []byte(`{"signal_type":"SAVE","cqrs_id":"note","instance_data":{"id":null,"text":"a","cqrs_revision":0},` +
		`"instance_pk":null}`)
	require.NoError(t, f.Handler()(message.NewMessage("x", body)))
	require.Len(t, f.deadLetters(), 1)
	require.Contains(t, f.deadLetters()[0].Error, "instance_pk is null")
}

func TestOnlyDirectSyncsIgnoresBroadcasts(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note", replica.OnlyDirectSyncs())
	direct := msg(envelope.Sync, 2, 0, `"text":"b"`)
	direct.Queue = queue
	f.deliver(save(1, 0, "a"), direct)
	require.Equal(t, map[int64]string{2: "b"}, f.notes())
	require.Equal(t, replica.Stats{Applied: 1, Ignored: 1}, f.Stats())

	django := delivery(t, msg(envelope.Sync, 3, 0, `"text":"c"`)) // which says by its routing key alone that it is for the queue
	django.Metadata.Set(transport.DirectKey, "true")
	require.NoError(t, f.Handler()(django))
	require.Equal(t, map[int64]string{2: "b", 3: "c"}, f.notes())
}
