package replica_test

import (
	"database/sql"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

func TestMirrorWritesEveryGoType(t *testing.T) {
	type Address struct {
		Street string    `json:"street"`
		Since  time.Time `json:"since"`
	}
	type Row struct {
		ID      int64 `bun:",pk"`
		Small   int16
		Flag    bool
		Half    float32
		Bytes   []byte
		Text    string
		Valid   sql.NullString
		At      sql.NullTime
		Raw     json.RawMessage
		Any     map[string]any
		List    []string
		Address *Address
		Kept    string `bun:"type:json"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note")
		f.deliver(msg(envelope.Save, 1, 0, `"small":-32768,"flag":true,"half":0.5,"bytes":"AP8=","text":"it's ?",
			"valid":"yes","at":"2026-01-02 03:04:05.5+01:00","raw":{"n":12345678901234567890.10},
			"any":{"big":9007199254740993,"s":"\\u0000"},"list":["a","b"],
			"address":{"street":"Rue","since":"2026-01-02T03:04:05Z"},"kept":[1,{"a":null}]`))
		require.Empty(t, f.deadLetters())
		row := one[Row](t, db, "id = 1")
		require.EqualValues(t, -32768, row.Small)
		require.True(t, row.Flag)
		require.InDelta(t, 0.5, row.Half, 0)
		require.Equal(t, []byte{0, 255}, row.Bytes)
		require.Equal(t, "it's ?", row.Text)
		require.Equal(t, sql.NullString{String: "yes", Valid: true}, row.Valid)
		require.True(t, utc(t, "2026-01-02T02:04:05.5Z").Equal(row.At.Time))
		require.Equal(t, `\u0000`, row.Any["s"], "an escaped backslash, no NUL")
		require.Equal(t, []string{"a", "b"}, row.List)
		require.Equal(t, "Rue", row.Address.Street)
		require.JSONEq(t, `[1,{"a":null}]`, row.Kept)

		var raw, anyColumn string
		require.NoError(t, db.NewRaw("SELECT raw, ? FROM ?", bun.Ident("any"), bun.Ident("rows")).Scan(t.Context(), &raw, &anyColumn))
		require.Contains(t, raw, "12345678901234567890.10", "JSON numbers are not rounded")
		require.Contains(t, anyColumn, "9007199254740993")
	})
}

// bun would write these columns otherwise: NULL or the default for a zero value, and a zero for null.
func TestMirrorStoresZeroAsZeroAndNullAsNull(t *testing.T) {
	type Row struct {
		ID     int64 `bun:",pk,autoincrement"`
		Active bool  `bun:",nullzero,default:true"`
		Count  int64 `bun:",nullzero,default:7,skipupdate"`
		Text   string
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		dbtest.NotOnMariaDB(t, db, "an AUTO_INCREMENT column draws a value for 0")
		f := newFixture(t, db)
		mirror[Row](f, "note")
		count := func(where string) int {
			n, err := db.NewSelect().Model((*Row)(nil)).Where(where).Count(t.Context())
			require.NoError(t, err)
			return int(n)
		}
		f.deliver(msg(envelope.Save, 0, 0, `"active":true,"count":1,"text":"x"`),
			msg(envelope.Save, 0, 1, `"active":false,"count":0,"text":null`))
		require.Equal(t, 1, count("id = 0 AND active = FALSE AND count = 0 AND text IS NULL"))
		f.deliver(msg(envelope.Save, 1, 0, `"active":false,"count":null,"text":""`))
		require.Equal(t, 1, count("id = 1 AND active = FALSE AND count IS NULL AND text = ''"))
	})
}

func TestMirrorLeavesColumnsThatAreNotSent(t *testing.T) {
	type Row struct {
		ID    int64 `bun:",pk"`
		Text  string
		Seen  int64  `bun:",notnull,default:1"`
		Notes string `bun:",notnull,default:'ours'"`
		Lines []Note `bun:"rel:has-many,join:id=id"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note")
		f.deliver(msg(envelope.Save, 1, 0, `"text":"a","unknown":[1],"lines":[{"id":1}]`))
		require.Equal(t, Row{ID: 1, Text: "a", Seen: 1, Notes: "ours"}, one[Row](t, db, "id = 1"))

		_, err := db.NewUpdate().Model((*Row)(nil)).Set("seen = 5, notes = 'kept'").Where("id = 1").Exec(t.Context())
		require.NoError(t, err)
		f.deliver(msg(envelope.Save, 1, 1, `"text":"b"`))
		require.Equal(t, Row{ID: 1, Text: "b", Seen: 5, Notes: "kept"}, one[Row](t, db, "id = 1"))
	})
}

// An upsert would fail on the column that is not sent, although the row is there.
func TestMirrorUpdatesPartOfARowWithRequiredColumns(t *testing.T) {
	type Row struct {
		ID    int64 `bun:",pk"`
		Text  string
		Owner string `bun:",notnull"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note")
		_, err := db.NewInsert().Model(&Row{ID: 1, Text: "a", Owner: "me"}).Exec(t.Context())
		require.NoError(t, err)
		f.deliver(msg(envelope.Save, 1, 0, `"text":"b"`))
		require.Equal(t, Row{ID: 1, Text: "b", Owner: "me"}, one[Row](t, db, "id = 1"))
		require.Empty(t, f.deadLetters())

		missing := msg(envelope.Save, 2, 0, `"text":"b"`)
		f.deliver(missing)
		letter := f.deadLetters()[0]
		require.Contains(t, letter.Error, "owner", "the error names the column")
		require.Contains(t, letter.Error, `model "note"`, "and the model")
	})
}

func TestMirrorOfKeysOnly(t *testing.T) {
	type Row struct {
		ID int64 `bun:",pk"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note")
		f.deliver(msg(envelope.Save, 1, 0, `"text":"a"`), msg(envelope.Save, 1, 1, `"text":"b"`))
		require.Equal(t, Row{1}, one[Row](t, db, "id = 1"))
	})
}

func TestMirrorOfCompositeKeys(t *testing.T) {
	type Row struct {
		Shop   string `bun:",pk"`
		Number int64  `bun:",pk"`
		Text   string
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "row")
		row := func(revision int64, text string) *envelope.Message {
			return of("row", envelope.Save, `["a'b",7]`, revision, `"shop":"a'b","number":7,"text":"`+text+`"`)
		}
		f.deliver(row(0, "x"), row(1, "y"), of("row", envelope.Save, `["a'b",8]`, 0, `"shop":"a'b","number":8,"text":"z"`))
		require.Equal(t, Row{"a'b", 7, "y"}, one[Row](t, db, "number = 7"))

		f.deliver(of("row", envelope.Delete, `["a'b",7]`, 2, ""))
		require.Equal(t, Row{"a'b", 8, "z"}, one[Row](t, db, "TRUE"))

		f.deliver(of("row", envelope.Delete, `"a'b"`, 3, ""))
		require.Contains(t, f.deadLetters()[0].Error, "want a list of 2 values")
	})
}

func TestMirrorParksWhatDoesNotFit(t *testing.T) {
	type Row struct {
		ID    int64 `bun:",pk"`
		Small int16
		At    time.Time
		List  []string
		Text  string `bun:"type:varchar(3)"`
	}
	for name, test := range map[string]struct{ fields, reason string }{
		"a number that is too big":   {`"small":40000`, `field "small": int16 does not hold the value: value out of range`},
		"a fraction in an integer":   {`"small":1.5`, `field "small": int16 does not hold the value`},
		"text in an integer":         {`"small":"secret"`, `field "small": int16 does not hold the value: invalid syntax`},
		"a boolean in an integer":    {`"small":true`, `field "small": a boolean cannot be read as int16`},
		"no time":                    {`"at":"yesterday"`, `field "at": "yesterday" is not a time`},
		"an object in a list":        {`"list":{}`, `field "list": `},
		"a string with NUL":          {`"text":"a\u0000"`, `field "text": the string contains a NUL character`},
		"an object in a text column": {`"text":{}`, `field "text": an object cannot be read as string`},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				f := newFixture(t, db)
				mirror[Row](f, "note")
				m := msg(envelope.Save, 1, 0, test.fields)
				m.Key = "1"
				f.deliver(m)
				f.requireDeadLetter(m, test.reason)
				require.EqualValues(t, -1, f.ledger(1).Revision)
			})
		})
	}
}

func TestMirrorParksAKeyOfAnotherType(t *testing.T) {
	for _, m := range []*envelope.Message{
		of("note", envelope.Save, `"abc"`, 0, `"text":"a"`),
		of("note", envelope.Delete, `"abc"`, 0, ""),
	} {
		f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
		mirror[Note](f, "note")
		m.Key = "abc"
		f.deliver(m)
		f.requireDeadLetter(m, "int64 does not hold the value: invalid syntax")
	}
}

func TestMirrorParksASaveWithoutItsKeyColumn(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Slugged](f, "note")
	m := of("note", envelope.Save, `"s"`, 0, `"text":"a"`)
	m.Key = "s"
	f.deliver(m)
	f.requireDeadLetter(m, `field "slug" with the primary key is missing`)
}

func TestRename(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note", replica.Rename("body", "text"), replica.Rename("number", "id"))
		f.deliver(msg(envelope.Save, 1, 0, `"number":1,"body":"a","text":"not this"`))
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		f.deliver(del(1, 1))
		require.Empty(t, f.notes())
	})
}
