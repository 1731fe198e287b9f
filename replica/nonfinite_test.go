package replica_test

import (
	"context"
	"encoding/json"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// gauge is a row with numbers that JSON has no word for.
type gauge struct {
	bun.BaseModel `bun:"table:gauges"`

	ID       int64    `bun:",pk"`
	Value    *float64 `bun:"type:double precision"`
	Document json.RawMessage
}

func gaugeMessage(t *testing.T, pk, data string) *envelope.Message {
	t.Helper()
	body := `{"signal_type":"SAVE","cqrs_id":"gauge","instance_data":{"id":` + pk + `,` + data + `,"cqrs_revision":1},"instance_pk":` + pk + `}`
	m, err := envelope.Decode([]byte(body), nil)
	require.NoError(t, err)
	return m
}

func TestNaNIsKeptOrRefusedByName(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[gauge](f, "gauge")
		f.deliver(gaugeMessage(t, "1", `"value":-Infinity,"document":{"a":"NaN"}`), gaugeMessage(t, "2", `"value":NaN`))
		var rows []gauge
		require.NoError(t, db.NewSelect().Model(&rows).Order("id").Scan(t.Context()))
		if db.Dialect().Name() == dialect.MySQL {
			require.Empty(t, rows)
			require.Len(t, f.deadLetters(), 2)
			for _, letter := range f.deadLetters() {
				require.Contains(t, letter.Error, `column "value" does not keep the value as it is`)
				require.Contains(t, letter.Error, "replica.NaNAsNull, nan_as_null in cqrsync.yaml")
			}
			return
		}
		require.Empty(t, f.deadLetters())
		require.Len(t, rows, 2)
		require.True(t, math.IsInf(*rows[0].Value, -1))
		require.JSONEq(t, `{"a":"NaN"}`, string(rows[0].Document))
		require.True(t, math.IsNaN(*rows[1].Value))
		if db.Dialect().Name() == dialect.SQLite {
			var kind string
			require.NoError(t, db.NewRaw("SELECT typeof(value) FROM gauges WHERE id = 1").Scan(t.Context(), &kind))
			require.Equal(t, "real", kind, "a number to SQLite, too")
		}
		f.deliver(gaugeMessage(t, "3", `"document":{"a":[1,NaN]}`))
		require.Len(t, f.deadLetters(), 1)
		require.Contains(t, f.deadLetters()[0].Error, `field "document": it has NaN or an infinity within it`)
	})
}

func TestNaNIsNullWhereTheReplicaSaysSo(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[gauge](f, "gauge", replica.NaNAsNull())
		f.deliver(gaugeMessage(t, "1", `"value":NaN`), gaugeMessage(t, "2", `"value":1.5`))
		require.Empty(t, f.deadLetters())
		var rows []gauge
		require.NoError(t, db.NewSelect().Model(&rows).Order("id").Scan(t.Context()))
		require.Nil(t, rows[0].Value)
		require.InDelta(t, 1.5, *rows[1].Value, 0)
	})
}

func TestListsWithNaNAreRead(t *testing.T) {
	type series struct {
		ID     int64 `bun:",pk"`
		Values []float64
		Any    map[string]any
		Lines  []struct{ X *float64 }
	}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	var got series
	require.NoError(t, replica.Handle(f.Replica, "gauge", func(_ context.Context, _ bun.Tx, e replica.Event[series]) error {
		got = e.Data
		return nil
	}))
	f.deliver(gaugeMessage(t, "1", `"values":[1.5, NaN, -Infinity],"any":{"a":NaN},"lines":[{"x":Infinity},{"x":null}]`))
	require.Empty(t, f.deadLetters())
	require.Len(t, got.Values, 3)
	require.True(t, math.IsNaN(got.Values[1]) && math.IsInf(got.Values[2], -1))
	require.Equal(t, map[string]any{"a": nil}, got.Any, "null, where JSON is wanted")
	require.True(t, math.IsInf(*got.Lines[0].X, 1))
	require.Nil(t, got.Lines[1].X)
}

func TestPostgresArraysHoldNaN(t *testing.T) {
	type series struct {
		bun.BaseModel `bun:"table:series"`

		ID     int64     `bun:",pk"`
		Values []float64 `bun:",array"`
	}
	f := newFixture(t, dbtest.Open(t, dbtest.PostgresURL(t)))
	mirror[series](f, "gauge")
	f.deliver(gaugeMessage(t, "1", `"values":[1.5,NaN,-Infinity]`))
	require.Empty(t, f.deadLetters())
	var text string
	require.NoError(t, f.db.NewRaw("SELECT ?::text FROM series", bun.Ident("values")).Scan(t.Context(), &text))
	require.Equal(t, "{1.5,NaN,-Infinity}", text)
}
