package stored_test

import (
	"context"
	"reflect"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/stored"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Cell has hooks, which run as bun runs them.
type Cell struct {
	bun.BaseModel `bun:"table:cells"`

	ID    int64 `bun:",pk"`
	A     string
	B     int64
	hooks string
}

func (c *Cell) BeforeScanRow(context.Context) error { c.hooks += "before "; return nil }
func (c *Cell) AfterScanRow(context.Context) error  { c.hooks += "after"; return nil }

func TestRowsAreReadWithTheirNulls(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		for _, statement := range []string{
			"CREATE TABLE cells (id bigint PRIMARY KEY, a varchar(20), b bigint)",
			"INSERT INTO cells VALUES (1, NULL, 0), (2, NULL, NULL), (3, '', NULL), (4, '', 0), (5, NULL, 7), (6, NULL, 8)",
		} {
			_, err := db.DB.ExecContext(t.Context(), statement)
			require.NoError(t, err)
		}
		rows := stored.Of(db.Table(reflect.TypeFor[Cell]()))
		query := db.NewSelect().Model(rows.Model()).ColumnExpr("*").ColumnExpr("NULL AS other").Order("id")
		require.NoError(t, query.Scan(t.Context(), rows))
		want := []stored.Nulls{{"a": true}, {"a": true, "b": true}, {"b": true}, {}, {"a": true}, {"a": true}}
		require.Equal(t, len(want), rows.Len())
		for i, nulls := range want {
			require.Equal(t, nulls, rows.Nulls(i), "row %d", i+1)
			cell, ok := rows.Row(i).Addr().Interface().(*Cell)
			require.True(t, ok)
			require.EqualValues(t, i+1, cell.ID)
			require.Equal(t, "before after", cell.hooks)
		}
		require.EqualValues(t, 8, rows.Row(5).FieldByName("B").Int())
	})
}

// Narrow is the table with a type that does not hold its values.
type Narrow struct {
	bun.BaseModel `bun:"table:cells"`

	A  int64 // before the key, in the order of the columns
	ID int64 `bun:",pk"`
}

func TestAValueThatDoesNotFitNamesItsRow(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		for _, statement := range []string{
			"CREATE TABLE cells (id bigint PRIMARY KEY, a varchar(20), b bigint)",
			"INSERT INTO cells VALUES (7, 'seven', 0)",
		} {
			_, err := db.DB.ExecContext(t.Context(), statement)
			require.NoError(t, err)
		}
		rows := stored.Of(db.Table(reflect.TypeFor[Narrow]()))
		err := db.NewSelect().Model(rows.Model()).Scan(t.Context(), rows)
		var unread *stored.ScanError
		require.ErrorAs(t, err, &unread)
		require.Equal(t, "a", unread.Field.Name)
		require.EqualValues(t, 7, unread.Row.FieldByName("ID").Int())
	})
}
