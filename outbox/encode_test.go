package outbox_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

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

// Cents is a decimal of its own making: text in its column and in the message.
type Cents int64

func (c Cents) Value() (driver.Value, error) { return fmt.Sprintf("%d.%02d", c/100, c%100), nil }

func (c *Cents) Scan(src any) error {
	var whole, part int64
	_, err := fmt.Sscanf(fmt.Sprintf("%s", src), "%d.%d", &whole, &part)
	*c = Cents(100*whole + part)
	return err
}

// Level is an enum that is a word in its column.
type Level int

func (l Level) MarshalText() ([]byte, error) { return []byte([]string{"low", "high"}[l]), nil }
func (l Level) Value() (driver.Value, error) { return []string{"low", "high"}[l], nil }

func (l *Level) Scan(src any) error {
	*l = 0
	if fmt.Sprintf("%s", src) == "high" {
		*l = 1
	}
	return nil
}

// Digest is a type of a column of bytes.
type Digest [4]byte

func (d Digest) Value() (driver.Value, error) { return d[:], nil }

func (d *Digest) Scan(src any) error {
	copy(d[:], src.([]byte))
	return nil
}

type Status string

type Geo struct{ Lat, Lon float64 }

// Rare has a column of each kind that is met less often, and a null of each.
type Rare struct {
	bun.BaseModel `bun:"table:rare"`
	outbox.Tracked

	ID      int64 `bun:",pk"`
	Geo     Geo   `bun:"embed:geo_"`
	Price   Cents `bun:"type:varchar(20)"`
	Level   Level `bun:"type:varchar(10)"`
	Status  Status
	Digest  Digest   `bun:"type:blob"`
	Names   []string `bun:"type:json"`
	Lasting time.Duration
	Gone    bun.NullTime
	Price2  *Cents `bun:"type:varchar(20)"`
	Level2  *Level `bun:"type:varchar(10)"`
	Status2 *Status
	Raw2    json.RawMessage `bun:"type:json,nullzero"`
	Names2  []string        `bun:"type:json,nullzero"`
	Blob2   []byte
	Float2  *float64
	Flag2   *bool
	Time2   sql.NullTime
	Int2    sql.NullInt64
	Text2   sql.Null[string]
}

func TestRareTypesAndTheirNulls(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		model := reflect.TypeFor[Rare]()
		if db.Dialect().Name() == dialect.PG {
			db.Table(model).FieldMap["digest"].UserSQLType = "bytea"
			db.Table(model).FieldMap["digest"].CreateTableSQLType = "bytea"
		}
		require.NoError(t, exec(db.NewCreateTable().Model((*Rare)(nil)).Exec(t.Context())))
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[Rare](box, "rare"))
		require.NoError(t, box.Migrate(t.Context()))
		f := fixture{t, db, box}
		f.insert(&Rare{
			ID: 1, Geo: Geo{47.5, -8}, Price: 1234, Level: 1, Status: "new", Digest: Digest{0, 1, 254, 255},
			Names: []string{"a", "ü"}, Lasting: time.Second,
			Gone: bun.NullTime{Time: time.Date(2026, 1, 2, 3, 4, 5, 600000, time.UTC)},
		})
		var got map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(f.take()[0].Data, &got))
		want := map[string]string{
			"id": `1`, "geo_lat": `47.5`, "geo_lon": `-8`, "price": `"12.34"`, "level": `"high"`, "status": `"new"`,
			"digest": `"AAH+/w=="`, "names": `["a","ü"]`, "lasting": `1000000000`,
			"gone":   `"2026-01-02 03:04:05.000600+00:00"`,
			"price2": `null`, "level2": `null`, "status2": `null`, "raw2": `null`, "names2": `null`, "blob2": `null`,
			"float2": `null`, "flag2": `null`, "time2": `null`, "int2": `null`, "text2": `null`,
		}
		for name, value := range want {
			require.Equal(t, value, string(got[name]), name)
		}
		require.Len(t, got, len(want))
	})
}

func TestPostgresArraysAreLists(t *testing.T) {
	type Tagged struct {
		bun.BaseModel `bun:"table:tagged"`
		ID            int64    `bun:",pk"`
		Tags          []string `bun:",array"`
		Numbers       []int64  `bun:",array"`
		None          []int64  `bun:",array"`
	}
	f := newFixture(t, dbtestPostgres(t))
	require.NoError(t, exec(f.db.NewCreateTable().Model((*Tagged)(nil)).Exec(t.Context())))
	require.NoError(t, outbox.Register[Tagged](f.box, "tagged"))
	f.insert(&Tagged{ID: 1, Tags: []string{"a", `b"c`}, Numbers: []int64{1, math.MaxInt64}})
	require.Equal(t, `{"id":1,"tags":["a","b\"c"],"numbers":[1,9223372036854775807],"none":null}`, string(f.take()[0].Data))
}

func TestATypeThatCannotBeSentIsRefusedAtRegister(t *testing.T) {
	type Odd struct {
		ID    int64               `bun:",pk"`
		Wires map[string]chan int `bun:"type:json"`
		Call  func()              `bun:"type:text"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	err := outbox.Register[Odd](f.box, "odd")
	require.ErrorContains(t, err, "column call: a func() cannot be sent")
	require.ErrorContains(t, err, "column wires: a chan int cannot be sent")
	require.ErrorContains(t, outbox.Register[Odd](f.box, "odd", outbox.Columns("id", "wires")), "column wires")
	require.NoError(t, outbox.Register[Odd](f.box, "odd", outbox.Columns("id")))
}

// wordless has no JSON.
type wordless int64

func (wordless) MarshalJSON() ([]byte, error) { return nil, errors.New("no word for it") }

func (w wordless) Value() (driver.Value, error) { return int64(w), nil }

// What JSON cannot carry fails in the transaction, where the caller can react, not after the
// commit.
func TestWhatCannotBeSerializedDoesNotCommit(t *testing.T) {
	f := newFixture(t, dbtestPostgres(t))
	type Reading struct {
		bun.BaseModel `bun:"table:readings"`
		ID            int64 `bun:",pk"`
		Value         wordless
	}
	_, err := f.db.NewCreateTable().Model((*Reading)(nil)).Exec(t.Context())
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Reading](f.box, "reading"))
	err = f.inTx(func(ctx context.Context, tx bun.Tx) error {
		return exec(tx.NewInsert().Model(&Reading{ID: 1, Value: 1}).Exec(ctx))
	})
	require.ErrorContains(t, err, "column value of readings")
	require.ErrorContains(t, err, "key 1")
	n, err := f.db.NewSelect().Model((*Reading)(nil)).Count(t.Context())
	require.NoError(t, err)
	require.Zero(t, n)
}
