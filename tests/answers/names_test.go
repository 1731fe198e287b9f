package answers_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// sides registers what two files say.
func (p *pipeline) sides(master, copies string) {
	p.Helper()
	m, err := manifest.Parse([]byte("models: " + master))
	require.NoError(p, err)
	box, err := m.Box(p.Context(), p.master, outbox.Config{})
	require.NoError(p, err)
	m, err = manifest.Parse([]byte("queue: q\nmodels: " + copies))
	require.NoError(p, err)
	rep, err := m.Replica(p.Context(), p.copies, replica.Config{Logger: quiet})
	require.NoError(p, err)
	p.start(box, rep)
}

func (p *pipeline) dump(model, filter string) string {
	p.Helper()
	f, err := operate.ParseFilter(filter)
	require.NoError(p, err)
	var dump bytes.Buffer
	_, err = operate.Dump(p.Context(), p.box, model, &dump, operate.DumpOptions{Options: operate.Options{Filter: f}})
	require.NoError(p, err)
	return dump.String()
}

// A Django master sends the foreign key publisher_id as publisher; so does one that took its table over.
func TestAForeignKeyTravelsUnderDjangosName(t *testing.T) {
	eachPair(t, func(t *testing.T, master, copies string) {
		const columns = "(id bigint PRIMARY KEY, publisher_id bigint, title varchar(20)"
		moment := map[string]string{"postgres": "timestamptz", "mariadb": "datetime(6)", "sqlite": "timestamp"}[master]
		p := databases(t, master, copies,
			[]string{"CREATE TABLE books " + columns + ", cqrs_revision int, cqrs_updated " + moment + ")"},
			[]string{"CREATE TABLE books " + strings.Replace(columns, "publisher_id", "of", 1) + ")"})
		p.sides("{book: {table: books, map: {publisher_id: publisher}}}",
			"{book: {table: books, map: {of: publisher}}}")
		p.plainExec(p.master, "INSERT INTO books VALUES (1, 7, 'a', 4, '2026-11-30 12:00:00'), (2, 8, 'b', 5, '2026-11-30 12:00:00')")
		adopted, err := operate.Adopt(t.Context(), p.box, "book", operate.Options{})
		require.NoError(t, err)
		require.EqualValues(t, 2, adopted.Taken)

		const first = `{"cqrs_revision":4,"cqrs_updated":"2026-11-30 12:00:00+00:00","id":1,"publisher":7,"title":"a"}`
		require.Equal(t, "book\n"+first, strings.TrimSpace(p.dump("book", `{"publisher": 7}`)))
		require.Equal(t, "book\n"+first, strings.TrimSpace(p.dump("book", `{"publisher_id": 7}`)), "a column's own name will do")
		loaded, err := operate.Load(t.Context(), p.rep, strings.NewReader("book\n"+first), operate.LoadOptions{})
		require.NoError(t, err)
		require.EqualValues(t, 1, loaded.Applied)
		_, err = operate.Sync(t.Context(), p.box, "book", operate.SyncOptions{To: outbox.SyncOptions{Queue: p.rep.Queue()}})
		require.NoError(t, err)
		p.becomesEqual("book")

		p.plainExec(p.copies, "UPDATE books SET of = 9 WHERE id = 1")
		p.plainExec(p.copies, "UPDATE books SET of = 9 WHERE id = 2")
		filter, err := operate.ParseFilter(`{"publisher__in": [7, 9]}`)
		require.NoError(t, err)
		var listed, differing bytes.Buffer
		_, err = operate.DiffMaster(t.Context(), p.box, "book", &listed, operate.DiffMasterOptions{
			Content: true, Options: operate.Options{Filter: filter},
		})
		require.NoError(t, err)
		d, err := operate.DiffReplica(t.Context(), p.rep, &listed, &differing, operate.Options{})
		require.NoError(t, err)
		require.EqualValues(t, 1, d.Compared)
		require.EqualValues(t, 1, d.Differing)
		sent, err := operate.DiffSync(t.Context(), p.box, &differing, operate.Options{})
		require.NoError(t, err)
		require.EqualValues(t, 1, sent)
		p.eventually(func() bool { return p.diff("book", false).Differing == 1 }, func() string { return strings.Join(p.reasons(), "\n") })

		var held bytes.Buffer
		n, err := operate.DeletedDiffReplica(t.Context(), p.rep, "book", &held, operate.Options{Filter: filter})
		require.NoError(t, err)
		require.EqualValues(t, 2, n)
		gone, err := operate.DeletedDiffMaster(t.Context(), p.box, &held, &bytes.Buffer{}, operate.Options{})
		require.NoError(t, err)
		require.Zero(t, gone.Differing)
		require.EqualValues(t, 1, p.diff("book", true).Differing)
		p.becomesEqual("book")
	})
}

func TestAMapThatReplicasCouldNotUseIsRefused(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := dbtest.Open(t, dbtest.Kinds()[kind](t))
			_, err := db.ExecContext(t.Context(), "CREATE TABLE books (id bigint PRIMARY KEY, publisher_id bigint, title varchar(20))")
			require.NoError(t, err)
			for model, want := range map[string]string{
				"map: {id: pk}":                                           "the column is the primary key",
				"map: {publisher_id: title}":                              "the column title has the name, too",
				"map: {publisher_id: x, title: x}":                        "has the name, too",
				"map: {nope: x}":                                          `map: table books has no column "nope"`,
				"map: {title: cqrs_revision}":                             "the ledger's revision or time",
				"columns: publisher_id, map: {title: x}":                  `column "title" is not among columns`,
				"types: {id: text}":                                       `types: "text", want uuid`,
				"types: {id: uuid}":                                       "holds no uuid",
				"types: {nope: uuid}":                                     `types: table books has no column "nope"`,
				"columns: publisher_id, map: {publisher_id: title}":       "",
				"map: {publisher_id: title, title: name}":                 "",
				"map: {publisher_id: publisher, title: title}, key: [id]": "",
			} {
				m, err := manifest.Parse([]byte("models: {book: {table: books, " + model + "}}"))
				require.NoError(t, err)
				_, err = m.Box(t.Context(), db, outbox.Config{})
				if want == "" {
					require.NoError(t, err, model)
				} else {
					require.ErrorContains(t, err, want, model)
				}
			}
		})
	}
}

// MariaDB's columns hold no NaN, and one of the sides may say that it is null there.
func TestNaNIsNullWhereAFileSaysSo(t *testing.T) {
	for _, copies := range kinds {
		for _, side := range []string{"master", "replica"} {
			t.Run(side+" "+copies, func(t *testing.T) {
				t.Parallel()
				double := map[string]string{"postgres": "double precision", "mariadb": "double", "sqlite": "real"}[copies]
				p := databases(t, "postgres", copies,
					[]string{"CREATE TABLE t (id bigint PRIMARY KEY, a float8, b real, c float8[])"},
					[]string{"CREATE TABLE t (id bigint PRIMARY KEY, a " + double + ", b " + double + ")"})
				said := map[bool]string{true: ", nan_as_null: true"}
				p.sides("{t: {table: t"+said[side == "master"]+"}}", "{t: {table: t"+said[side == "replica"]+"}}")
				p.plainExec(p.master, "INSERT INTO t VALUES (1, 'NaN', '-Infinity', '{1,NaN}'), (2, 1.5, NULL, NULL)")
				p.sync("t")
				p.becomesEqual("t")
				null := map[int]string{1: "nil", 2: "=1.5"}
				require.Equal(t, null, p.print(p.copies, copies, "t", "a", double))
				p.plainExec(p.copies, "UPDATE t SET a = 2")
				require.EqualValues(t, 2, p.diff("t", true).Differing)
				p.becomesEqual("t")
				require.Equal(t, null, p.print(p.copies, copies, "t", "a", double))
				p.plainExec(p.copies, "DELETE FROM t")
				p.loads("t", 2)
				require.Equal(t, null, p.print(p.copies, copies, "t", "a", double))
				if side == "master" {
					require.Contains(t, p.dump("t", "{}"), `"id":1,"a":null,"b":null,"c":[1,null]}`)
				} else {
					require.Contains(t, p.dump("t", "{}"), `"id":1,"a":NaN,"b":-Infinity,"c":[1,NaN]}`)
				}
			})
		}
	}
}

// loads fills the replica with what the master has.
func (p *pipeline) loads(model string, lines int64) {
	p.Helper()
	loaded, err := operate.Load(p.Context(), p.rep, strings.NewReader(p.dump(model, "{}")), operate.LoadOptions{
		BadLine: func(number int, err error) { p.Errorf("line %d: %v", number, err) },
	})
	require.NoError(p, err)
	require.Equal(p, lines, loaded.Applied)
	p.becomesEqual(model)
}

func TestNaNIsDumpedLoadedAndEqualToItself(t *testing.T) {
	p := databases(t, "postgres", "postgres",
		[]string{"CREATE TABLE t (id bigint PRIMARY KEY, a float8, b real, c float8[], d numeric, e jsonb)"},
		[]string{"CREATE TABLE t (id bigint PRIMARY KEY, a float8, b real, c float8[], d numeric, e jsonb)"})
	p.sides("{t: {table: t}}", "{t: {table: t}}")
	p.plainExec(p.master, `INSERT INTO t VALUES (1, 'NaN', '-Infinity', '{1,NaN}', 'NaN', '{"a":"NaN"}'), (2, 1, 2, '{}', 3, '"Infinity"')`)
	p.loads("t", 2)
	require.Contains(t, p.dump("t", "{}"), `"id":1,"a":NaN,"b":-Infinity,"c":[1,NaN],"d":"NaN","e":{"a":"NaN"}}`)
	for column, want := range map[string]string{"a": "NaN", "b": "-Infinity", "c": "{1,NaN}", "d": "NaN", "e": `{"a": "NaN"}`} {
		require.Equal(t, "="+want, p.print(p.copies, "postgres", "t", column, "")[1])
		p.plainExec(p.copies, "UPDATE t SET "+column+" = NULL WHERE id = 1")
		require.EqualValues(t, 1, p.diff("t", true).Differing, column)
		p.becomesEqual("t")
		require.Equal(t, "="+want, p.print(p.copies, "postgres", "t", column, "")[1])
	}
}
