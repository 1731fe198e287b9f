package manifest_test

import (
	"bytes"
	"database/sql"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type db struct{ *sql.DB }

func (d db) exec(t *testing.T, statement string) {
	t.Helper()
	_, err := d.ExecContext(t.Context(), statement)
	require.NoError(t, err, statement)
}

func TestWhatIsWrongIsSaidAllAtOnce(t *testing.T) {
	_, err := manifest.Parse([]byte(`
models:
  "a b": {table: "x; DROP TABLE y"}
  order: {table: orders, key: "id)", columns: [ok, "no good"], map: {"x.y": z}}
`))
	for _, part := range []string{`"a b"`, `x; DROP TABLE y`, `key: "id)"`, `columns: "no good"`, `map: "x.y"`} {
		require.ErrorContains(t, err, part)
	}
	_, err = manifest.Parse([]byte("tables: {}"))
	require.ErrorContains(t, err, "tables")
	_, err = manifest.Parse(nil)
	require.ErrorContains(t, err, "models: none")
}

// The same columns, as each database spells them. The values are those of one row of each table.
var kinds = map[string]string{
	"postgres": `id bigint PRIMARY KEY, small smallint, name text NOT NULL, price numeric(20,6), paid boolean, ratio double precision,
		at timestamptz, day date, doc jsonb, raw bytea, ref uuid, tags text[]`,
	"mariadb": `id bigint PRIMARY KEY, small smallint, name text NOT NULL, price decimal(20,6), paid boolean, ratio double,
		at datetime(6), day date, doc json, raw blob, ref uuid, tags text`,
	"sqlite": `id integer PRIMARY KEY, small integer, name text NOT NULL, price text, paid boolean, ratio real,
		at timestamp, day date, doc json, raw blob, ref text, tags text`,
}

const (
	full  = `(1, 2, 'O''Brien', 12345678901234.500001, TRUE, 0.1, '2026-11-24 12:00:00.123456', '2026-11-24', '{"a": [1, null]}', 'bytes', '5f0c6f5e-0000-4000-8000-0123456789ab', '{x,y}')`
	empty = `(2, NULL, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)`
)

func TestPlainTablesAreCopiedColumnByColumn(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			master, copies := dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t))
			db{master.DB}.exec(t, "CREATE TABLE things ("+kinds[name]+")")
			db{copies.DB}.exec(t, "CREATE TABLE copies ("+kinds[name]+")")
			db{master.DB}.exec(t, "INSERT INTO things VALUES "+full+", "+empty)
			m, err := manifest.Parse([]byte("models: {thing: {table: things}}"))
			require.NoError(t, err)
			box, err := m.Box(t.Context(), master, outbox.Config{})
			require.NoError(t, err)
			require.NoError(t, box.Migrate(t.Context()))
			c, err := manifest.Parse([]byte("queue: q\nmodels: {thing: {table: copies}}"))
			require.NoError(t, err)
			rep, err := c.Replica(t.Context(), copies, replica.Config{})
			require.NoError(t, err)
			require.NoError(t, rep.Migrate(t.Context()))

			var dump bytes.Buffer
			_, err = operate.Dump(t.Context(), box, "thing", &dump, operate.DumpOptions{})
			require.NoError(t, err)
			for _, part := range []string{
				`"id":1,"small":2,"name":"O'Brien"`, `"paid":true`, `"ratio":0.1`, `.123456+00:00"`, `"day":"2026-11-24"`,
				`"5f0c6f5e-0000-4000-8000-0123456789ab"`, `"small":null,"name":"","price":null`,
			} {
				require.Contains(t, dump.String(), part)
			}
			loaded, err := operate.Load(t.Context(), rep, strings.NewReader(dump.String()), operate.LoadOptions{
				BadLine: func(number int, err error) { t.Errorf("line %d: %v", number, err) },
			})
			require.NoError(t, err)
			require.EqualValues(t, 2, loaded.Applied)
			result, err := operate.Diff(t.Context(), box, rep, "thing", &bytes.Buffer{}, operate.DiffOptions{Content: true})
			require.NoError(t, err)
			require.True(t, result.Equal(), "%+v", result)
			db{copies.DB}.exec(t, "UPDATE copies SET day = '2026-11-25' WHERE id = 1")
			result, err = operate.Diff(t.Context(), box, rep, "thing", &bytes.Buffer{}, operate.DiffOptions{Content: true, CheckOnly: true})
			require.NoError(t, err)
			require.EqualValues(t, 1, result.Differing)
		})
	}
}

func TestColumnsKeysAndNamesAreChosen(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			things := dbtest.Open(t, newURL(t))
			d := db{things.DB}
			d.exec(t, "CREATE TABLE things (tenant integer NOT NULL, number integer NOT NULL, state varchar(20), secret varchar(20), UNIQUE (tenant, number))")
			m, err := manifest.Parse([]byte("queue: q\nmodels: {thing: {table: things, key: [tenant, number], columns: state, map: {state: status}}}"))
			require.NoError(t, err)
			rep, err := m.Replica(t.Context(), things, replica.Config{})
			require.NoError(t, err)
			require.NoError(t, rep.Migrate(t.Context()))
			_, err = operate.Load(t.Context(), rep, strings.NewReader("thing\n"+
				`{"tenant":1,"number":2,"status":"open","secret":"x","cqrs_revision":0,"cqrs_updated":null}`), operate.LoadOptions{})
			require.NoError(t, err)
			var state string
			var secret *string
			require.NoError(t, things.DB.QueryRowContext(t.Context(), "SELECT state, secret FROM things").Scan(&state, &secret))
			require.Equal(t, "open", state)
			require.Nil(t, secret)

			for text, want := range map[string]string{
				"models: {thing: {table: nothing}}":                                "table nothing does not exist",
				"models: {thing: {table: things}}":                                 "no primary key",
				"models: {thing: {table: things, key: nope, columns: [a, state]}}": `no column "nope"`,
			} {
				if name == "mariadb" && want == "no primary key" {
					continue // it takes the unique index for one
				}
				m, err := manifest.Parse([]byte(text))
				require.NoError(t, err)
				_, err = m.Box(t.Context(), things, outbox.Config{})
				require.ErrorContains(t, err, want)
			}
		})
	}
}

// What is wrong with a model is told by its CQRS id: its Go type is made of the catalog, and nobody
// wrote it.
func TestNoErrorShowsATypeMadeOfTheCatalog(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.ExecContext(t.Context(), "CREATE TABLE orders (id bigint PRIMARY KEY, status varchar(10))")
		require.NoError(t, err)
		for text, want := range map[string]string{
			"models: {a: {table: orders, map: {id: x}}}":                 `model a: outbox: model "a": Rename("x", "id") (map in cqrsync.yaml)`,
			"models: {a: {table: orders}, b: {table: orders}}":           "which is registered already, as \"a\"",
			"models: {a: {table: orders, constants: {id: 5}}}":           "every column of the primary key is a Constant",
			"queue: q\nmodels: {a: {table: orders}, b: {table: orders}}": "nothing tells their rows apart",
		} {
			m, err := manifest.Parse([]byte(text))
			require.NoError(t, err)
			_, boxErr := m.Box(t.Context(), db, outbox.Config{})
			_, repErr := m.Replica(t.Context(), db, replica.Config{Queue: "q"})
			err = errors.Join(boxErr, repErr)
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "struct")
			require.NotContains(t, err.Error(), "Column0")
		}
	})
}
