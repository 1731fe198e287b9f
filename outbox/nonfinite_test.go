package outbox_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"math"
	"testing"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
)

type celsius float64

type Probe struct {
	bun.BaseModel `bun:"table:probes"`

	ID     int64 `bun:",pk"`
	Double float64
	Single float32
	Named  celsius
	Maybe  *float64
	Null   sql.NullFloat64 `bun:"null"`
	Text   string
}

func (f fixture) withProbes(options ...outbox.Option) {
	f.Helper()
	require.NoError(f, exec(f.db.NewCreateTable().Model((*Probe)(nil)).Exec(f.Context())))
	require.NoError(f, outbox.Register[Probe](f.box, "probe", options...))
}

func (f fixture) sentData() (data, previous []string) {
	f.Helper()
	var rows []struct{ Data, Previous *string }
	require.NoError(f, f.db.NewSelect().Table("outbox_messages").Column("data", "previous").Order("id").Scan(f.Context(), &rows))
	text := func(stored *string) string {
		if stored == nil {
			return "null"
		}
		require.True(f, json.Valid([]byte(*stored)), "the column is JSON: %s", *stored)
		object, err := envelope.Restored(json.RawMessage(*stored))
		require.NoError(f, err)
		return string(object)
	}
	for _, row := range rows {
		data, previous = append(data, text(row.Data)), append(previous, text(row.Previous))
	}
	return data, previous
}

// MariaDB has no such numbers.
func TestNaNAndTheInfinitiesAreSentAsPythonHasThem(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		dbtest.NotOnMariaDB(t, db, "its columns hold neither NaN nor an infinity")
		f := newFixture(t, db)
		f.withProbes(outbox.TrackPrevious("double"))
		nan := math.NaN()
		row := &Probe{
			ID: 1, Double: nan, Single: float32(math.Inf(1)), Named: celsius(math.Inf(-1)), Maybe: &nan,
			Null: sql.NullFloat64{Float64: math.Inf(1), Valid: true}, Text: "NaN, Infinity",
		}
		f.insert(row)
		row.Text = "still NaN"
		update := func() {
			require.NoError(t, f.inTx(func(ctx context.Context, tx bun.Tx) error {
				return exec(tx.NewUpdate().Model(row).WherePK().Exec(ctx))
			}))
		}
		update()
		row.Double = 1.5
		update()
		_, err := f.box.Sync(t.Context(), "probe", []json.RawMessage{json.RawMessage("1")}, outbox.SyncOptions{})
		require.NoError(t, err)
		data, previous := f.sentData()
		const rest = `"single":Infinity,"named":-Infinity,"maybe":NaN,"null":Infinity,"text":`
		require.Equal(t, []string{
			`{"id":1,"double":NaN,` + rest + `"NaN, Infinity"}`, `{"id":1,"double":NaN,` + rest + `"still NaN"}`,
			`{"id":1,"double":1.5,` + rest + `"still NaN"}`, `{"id":1,"double":1.5,` + rest + `"still NaN"}`,
		}, data)
		require.Equal(t, []string{`{"double":null}`, "null", `{"double":NaN}`, "null"}, previous)
	})
}

func TestNaNIsNullWhereTheModelOrTheBoxSaysSo(t *testing.T) {
	db := dbtestPostgres(t)
	f := newFixture(t, db)
	f.withProbes(outbox.NaNAsNull(), outbox.TrackPrevious("double"))
	f.insert(&Probe{ID: 1, Double: math.NaN(), Text: "NaN"})
	data, previous := f.sentData()
	const want = `{"id":1,"double":null,"single":0,"named":0,"maybe":null,"null":null,"text":"NaN"}`
	require.Equal(t, []string{want}, data)
	require.Equal(t, []string{"null"}, previous, "null as before")

	box, err := outbox.New(db, outbox.Config{NaNAsNull: true})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[Probe](box, "probe"))
	for page, err := range boxed.Of(box).Instances(t.Context(), "probe", boxed.Selection{}) {
		require.NoError(t, err)
		require.Equal(t, want, string(page[0].Data))
	}
}

func TestListsOfNumbersMayHaveNaN(t *testing.T) {
	type Series struct {
		bun.BaseModel `bun:"table:series"`
		ID            int64           `bun:",pk"`
		Values        []float64       `bun:",array"`
		Float         pgtype.Float8   `bun:"type:float8"`
		Decimal       pgtype.Numeric  `bun:"type:numeric"`
		Digits        string          `bun:"type:numeric"`
		Document      json.RawMessage `bun:"type:jsonb"`
	}
	f := newFixture(t, dbtestPostgres(t))
	require.Equal(t, dialect.PG, f.db.Dialect().Name())
	require.NoError(t, exec(f.db.NewCreateTable().Model((*Series)(nil)).Exec(t.Context())))
	require.NoError(t, outbox.Register[Series](f.box, "series"))
	f.insert(&Series{
		ID: 1, Values: []float64{1.5, math.NaN(), math.Inf(-1)}, Float: pgtype.Float8{Float64: math.NaN(), Valid: true},
		Decimal: pgtype.Numeric{NaN: true, Valid: true}, Digits: "NaN", Document: json.RawMessage(`{"a":"NaN","b":["Infinity"]}`),
	})
	data, _ := f.sentData()
	require.Equal(t, []string{`{"id":1,"values":[1.5,NaN,-Infinity],"float":NaN,"decimal":"NaN","digits":"NaN",` +
		`"document":{"a":"NaN","b":["Infinity"]}}`}, data)
}
