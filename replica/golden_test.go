package replica_test

import (
	"bufio"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// The models of a replica of the Django service that sent the golden messages.

type Author struct {
	ID           int64 `bun:",pk"`
	CqrsRevision int64
	CqrsUpdated  time.Time
	Name         string
	ExtUUID      *uuid.UUID `bun:"ext_uuid,type:uuid"`
	Rating       *string    `bun:"type:numeric"`
	Score        *float64
	Big          *int64
	Active       bool
	Born         *time.Time `bun:"type:date"`
	SeenAt       *time.Time
	Bio          *string
	Extra        json.RawMessage
	PublisherID  *int64
}

type Order struct {
	ID        uuid.UUID `bun:",pk,type:uuid"`
	AuthorID  int64
	Status    string
	Total     string `bun:"type:numeric"`
	CreatedAt time.Time
}

type Slugged struct {
	Slug string `bun:",pk"`
	Text string
}

type Account struct {
	ID   int64 `bun:",pk"`
	Name string
}

type Book struct {
	ID        int64 `bun:",pk"`
	Title     string
	AuthorID  int64
	Price     string `bun:"type:numeric"`
	Published time.Time
	Pages     *int64 // not sent
}

type Odd struct {
	ID  int64    `bun:",pk"`
	T   *string  // a time of day
	F   *float64 // NaN
	Big *uint64
}

// golden returns the recorded messages by name. They expired long ago, which is not what these tests are about.
func golden(t *testing.T) map[string]*envelope.Message {
	t.Helper()
	file, err := os.Open("../envelope/testdata/golden.jsonl")
	require.NoError(t, err)
	defer func() { require.NoError(t, file.Close()) }()
	messages := make(map[string]*envelope.Message)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Name, Body string }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line))
		m, err := envelope.Decode([]byte(line.Body), nil)
		require.NoError(t, err)
		m.Expires = time.Time{}
		messages[line.Name] = m
	}
	require.NoError(t, lines.Err())
	return messages
}

func one[T any](t *testing.T, db *bun.DB, where string, args ...any) T {
	t.Helper()
	var row T
	require.NoError(t, db.NewSelect().Model(&row).Where(where, args...).Scan(t.Context()))
	return row
}

func utc(t *testing.T, s string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, s)
	require.NoError(t, err)
	return at
}

func TestGoldenAuthorsAreMirrored(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		dbtest.NotOnMariaDB(t, db, "its numeric has no fraction unless told")
		f, messages := newFixture(t, db), golden(t)
		mirror[Author](f, "author", replica.Rename("publisher", "publisher_id"))
		f.deliver(messages["save_create_all_types"], messages["save_create_nulls"])

		jules := one[Author](t, db, "id = 1")
		require.Equal(t, "Жюль Verne / \"né\" 😀", jules.Name)
		require.Equal(t, "0419d87b-d477-44e4-82c4-310f56faa3c7", jules.ExtUUID.String())
		require.Equal(t, "12.34", *jules.Rating)
		require.InDelta(t, 0.1, *jules.Score, 0)
		require.EqualValues(t, int64(9007199254740993), *jules.Big, "beyond float64")
		require.True(t, jules.Active)
		require.Equal(t, "1828-02-08", jules.Born.UTC().Format(time.DateOnly))
		require.True(t, utc(t, "2026-01-02T03:04:05.678901Z").Equal(*jules.SeenAt))
		require.Equal(t, "line1\nline2\ttab <b>&", *jules.Bio)
		require.JSONEq(t, `{"k":[1,null,{"x":1.5}],"ü":true}`, string(jules.Extra))
		require.EqualValues(t, 1, *jules.PublisherID)
		require.Zero(t, jules.CqrsRevision)
		require.True(t, utc(t, "2026-11-22T22:16:33.237828Z").Equal(jules.CqrsUpdated))

		nulls := one[Author](t, db, "id = 2")
		require.Equal(t, Author{ID: 2, Name: "nulls", Active: true, CqrsUpdated: nulls.CqrsUpdated}, nulls)

		f.deliver(messages["save_update_tz_previous"])
		jules = one[Author](t, db, "id = 1")
		require.Equal(t, "Jules", jules.Name)
		require.Nil(t, jules.Rating)
		require.True(t, utc(t, "2026-01-02T03:04:05+03:00").Equal(*jules.SeenAt))
		require.EqualValues(t, 1, jules.CqrsRevision)

		f.deliver(messages["sync_direct"], messages["sync_broadcast"], messages["bulk_update"])
		jules = one[Author](t, db, "id = 1")
		require.InDelta(t, 1e22, *jules.Score, 0)
		require.Nil(t, jules.PublisherID)
		require.EqualValues(t, 4, jules.CqrsRevision)
		require.Equal(t, "bulk1", one[Author](t, db, "id = 3").Name)
		require.Zero(t, f.Stats().DeadLettered)
	})
}

func TestGoldenMessagesWithoutKeyAreDeadLetters(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Author](f, "author")
	f.deliver(golden(t)["dead_letter"], golden(t)["requeue"])
	require.Len(t, f.deadLetters(), 2)
}

func TestOtherGoldenModelsAreMirrored(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		dbtest.NotOnMariaDB(t, db, "its numeric has no fraction unless told")
		f, messages := newFixture(t, db), golden(t)
		mirror[Order](f, "order", replica.Rename("author", "author_id"))
		mirror[Slugged](f, "note")
		mirror[Account](f, "account")
		mirror[Book](f, "book")
		mirror[Odd](f, "odd")

		f.deliver(messages["save_uuid_pk_fk_decimal"])
		order := one[Order](t, db, "id = ?", "11111111-2222-3333-4444-555555555555")
		require.EqualValues(t, 1, order.AuthorID)
		require.Equal(t, "10.5", order.Total)
		require.True(t, utc(t, "2026-11-22T22:16:41.431453Z").Equal(order.CreatedAt))

		f.deliver(messages["save_chosen_fields_string_pk"], messages["save_correlation_meta"], messages["save_no_expiry"])
		require.Equal(t, "hello", one[Slugged](t, db, "slug = 'n1'").Text)
		f.deliver(messages["delete_string_pk"])
		n, err := db.NewSelect().Model((*Slugged)(nil)).Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 2, n)

		_, err = db.NewInsert().Model(&[]Account{{1, "copied"}, {2, "before"}, {3, "kept"}}).Exec(t.Context())
		require.NoError(t, err)
		f.deliver(messages["delete_int_pk"], messages["delete_custom"], messages["save_three_saves_one_txn"])
		var accounts []Account
		require.NoError(t, db.NewSelect().Model(&accounts).Order("id").Scan(t.Context()))
		require.Equal(t, []Account{{3, "kept"}, {101, "v3"}}, accounts)

		f.deliver(messages["save_serializer"])
		book := one[Book](t, db, "id = 1")
		require.Equal(t, "Nautilus", book.Title)
		require.Contains(t, []string{"9.90", "9.9"}, book.Price) // SQLite's numeric does not keep the zero
		require.True(t, utc(t, "2026-05-06T07:08:09.00001Z").Equal(book.Published))

		f.deliver(messages["save_nan"])
		odd := one[Odd](t, db, "id = 5")
		require.NotNil(t, odd.F)
		require.NotEqual(t, *odd.F, *odd.F, "NaN")
		require.Nil(t, odd.T)

		require.Empty(t, f.deadLetters())
	})
}
