package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

type Address struct{ City string }

// Everything has a column of each kind that travels.
type Everything struct {
	bun.BaseModel `bun:"table:everything"`
	outbox.Tracked
	Address

	ID       uuid.UUID `bun:",pk,type:uuid"`
	Big      int64
	Small    *int16
	Text     string
	Maybe    sql.NullString
	NullZero string `bun:",nullzero"`
	Flag     bool
	Score    float64
	Blob     []byte
	Raw      json.RawMessage `bun:"type:json"`
	Tags     map[string]int  `bun:"type:json"`
	At       time.Time
	Seen     *time.Time
	Day      time.Time `bun:"type:date"`
	Skipped  string    `bun:"-"`
}

func TestEveryTypeIsSentInTheWireForm(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.NewCreateTable().Model((*Everything)(nil)).Exec(t.Context())
		require.NoError(t, err)
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Everything](box, "everything"))
		require.NoError(t, box.Migrate(t.Context()))
		f := fixture{t, db, box}

		id := uuid.MustParse("0419d87b-d477-44e4-82c4-310f56faa3c7")
		f.insert(&Everything{
			Address: Address{"Zürich"}, ID: id, Big: math.MaxInt64, Text: "a <b> & \"c\"\n\u2028", Flag: true, Score: 0.1,
			Blob: []byte{0, 255}, Raw: json.RawMessage(`{"n":9007199254740993}`), Tags: map[string]int{"x": 1},
			At:  time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.FixedZone("", 3600)),
			Day: time.Date(1828, 2, 8, 0, 0, 0, 0, time.UTC),
		})
		messages := f.take()
		require.Len(t, messages, 1)
		require.Equal(t, id.String(), messages[0].Key)
		require.JSONEq(t, `"`+id.String()+`"`, string(messages[0].PK))
		var data map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(messages[0].Data, &data))
		want := map[string]string{
			"id": `"0419d87b-d477-44e4-82c4-310f56faa3c7"`, "big": `9223372036854775807`, "small": `null`,
			"text": `"a <b> & \"c\"\n\u2028"`, "maybe": `null`, "null_zero": `null`, "flag": `true`, "score": `0.1`,
			"blob": `"AP8="`, "raw": `{"n":9007199254740993}`, "tags": `{"x":1}`,
			"at": `"2026-01-02 02:04:05.678901+00:00"`, "seen": `null`, "day": `"1828-02-08"`, "city": `"Zürich"`,
		}
		got := map[string]string{}
		for name, value := range data {
			got[name] = string(value)
		}
		require.Equal(t, want, got)
	})
}

// What JSON cannot carry fails in the transaction, where the caller can react, not after the commit.
func TestWhatCannotBeSerializedDoesNotCommit(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	type Reading struct {
		bun.BaseModel `bun:"table:readings"`
		ID            int64 `bun:",pk"`
		Value         float64
	}
	_, err := f.db.NewCreateTable().Model((*Reading)(nil)).Exec(t.Context())
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Reading](f.box, "reading"))
	err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Reading{ID: 1, Value: math.NaN()}).Exec(ctx))
	})
	require.ErrorContains(t, err, "column value of readings")
	require.ErrorContains(t, err, "key 1")
	n, err := f.db.NewSelect().Model((*Reading)(nil)).Count(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}
