package operate_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// pair is a table of parcels on two sides, as cqrsync.yaml describes them.
type pair struct {
	*testing.T
	master, copies *bun.DB
	box            *outbox.Box
	rep            *replica.Replica
	logged         *bytes.Buffer
}

// newPair makes the tables parcels and reads the types of their columns from the catalogs.
func newPair(t *testing.T, master, copies *bun.DB, on, off, replicaYAML string) *pair {
	t.Helper()
	p := &pair{T: t, master: master, copies: copies, logged: &bytes.Buffer{}}
	for _, db := range []*bun.DB{master, copies} { // the databases may have served another pair
		p.exec(db, "DROP TABLE IF EXISTS parcels")
	}
	p.exec(master, "CREATE TABLE parcels ("+on+")")
	p.exec(copies, "CREATE TABLE parcels ("+off+")")
	m, err := manifest.Parse([]byte("models: {parcel: {table: parcels}}"))
	require.NoError(t, err)
	p.box, err = m.Box(t.Context(), master, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, p.box.Migrate(t.Context()))
	m, err = manifest.Parse([]byte("queue: q\nmodels: {parcel: {table: parcels" + replicaYAML + "}}"))
	require.NoError(t, err)
	p.rep, err = m.Replica(t.Context(), copies, replica.Config{Logger: slog.New(slog.NewTextHandler(p.logged, nil))})
	require.NoError(t, err)
	require.NoError(t, p.rep.Migrate(t.Context()))
	for _, table := range []string{"outbox_revisions", "outbox_messages"} {
		p.exec(master, "DELETE FROM "+table)
	}
	p.exec(copies, "DELETE FROM replica_revisions")
	return p
}

// onEach runs test with two databases of each kind.
func onEach(t *testing.T, test func(t *testing.T, kind string, master, copies *bun.DB)) {
	t.Helper()
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, name, dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t)))
		})
	}
}

func (p *pair) exec(db *bun.DB, statement string) {
	p.Helper()
	_, err := db.DB.ExecContext(p.Context(), statement)
	require.NoError(p, err, statement)
}

func (p *pair) count(db *bun.DB) (n int) {
	p.Helper()
	require.NoError(p, db.DB.QueryRowContext(p.Context(), "SELECT count(*) FROM parcels").Scan(&n))
	return n
}

// copy fills the replica with a dump of the master, and returns what could not be loaded.
func (p *pair) copy() (bad []error) {
	p.Helper()
	var dump bytes.Buffer
	_, err := operate.Dump(p.Context(), p.box, "parcel", &dump, operate.DumpOptions{})
	require.NoError(p, err)
	_, err = operate.Load(p.Context(), p.rep, &dump, operate.LoadOptions{
		BadLine: func(_ int, err error) { bad = append(bad, err) },
	})
	require.NoError(p, err)
	return bad
}

func (p *pair) diff(content bool) operate.Result {
	p.Helper()
	result, err := operate.Diff(p.Context(), p.box, p.rep, "parcel", io.Discard, operate.DiffOptions{
		Options: operate.Options{PageSize: 2}, Content: content,
	})
	require.NoError(p, err)
	return result
}

// keyTypes are a master's key, a replica's, three keys, and one that only the replica has.
type keyTypes struct{ on, off, a, b, c, phantom string }

var keyPairs = map[string][]keyTypes{
	"postgres": {
		{"bigint", "varchar(20)", "1", "2", "10", "'77'"},
		{"bigint", "text", "-1", "0", "10", "'77'"},
		{"bigint", "numeric(20)", "1", "2", "10", "77"},
		{"bigint", "char(20)", "1", "2", "10", "'77'"},
		{"varchar(20)", "bigint", "'1'", "'2'", "'10'", "77"},
		{"char(8)", "varchar(20)", "'a'", "'b'", "'c'", "'77'"},
		{"varchar(8)", "char(20)", "'a'", "'b'", "'c'", "'77'"},
		{"numeric(10,2)", "numeric(10,4)", "1.50", "2", "10.25", "77"},
		{"numeric(10,4)", "numeric(10,2)", "1.5", "2", "10.25", "77"},
		{"numeric(10,2)", "varchar(20)", "1.50", "2", "10.25", "'77'"},
		{"numeric(10,0)", "bigint", "1", "2", "10", "77"},
		{"text", "numeric(10,2)", "'1.50'", "'2.00'", "'10.25'", "77.00"},
		{"date", "timestamptz", "'2026-01-01'", "'2026-01-02'", "'0987-01-03'", "'2027-01-01'"},
		{"timestamp", "date", "'2026-01-01'", "'2026-01-02'", "'2026-01-03'", "'2027-01-01'"},
		{"timestamptz", "timestamp", "'2026-01-01 10:00:00.5+00'", "'2026-01-02'", "'2026-01-03'", "'2027-01-01'"},
		{
			"uuid", "varchar(40)", "'0419D87B-d477-44e4-82c4-310f56faa3c7'", "'1419d87b-d477-44e4-82c4-310f56faa3c7'",
			"'2419d87b-d477-44e4-82c4-310f56faa3c7'", "'3419d87b-d477-44e4-82c4-310f56faa3c7'",
		},
		{
			"text", "uuid", "'0419d87b-d477-44e4-82c4-310f56faa3c7'", "'1419d87b-d477-44e4-82c4-310f56faa3c7'",
			"'2419d87b-d477-44e4-82c4-310f56faa3c7'", "'3419d87b-d477-44e4-82c4-310f56faa3c7'",
		},
	},
	"mariadb": {
		{"bigint", "varchar(20)", "1", "2", "10", "'77'"},
		{"bigint", "char(20)", "1", "2", "10", "'77'"},
		{"bigint unsigned", "decimal(20,0)", "1", "2", "18446744073709551615", "77"},
		{"varchar(20)", "bigint", "'1'", "'2'", "'10'", "77"},
		{"decimal(10,2)", "decimal(10,4)", "1.50", "2", "10.25", "77"},
		{"decimal(10,4)", "decimal(10,2)", "1.5", "2", "10.25", "77"},
		{"decimal(10,2)", "varchar(20)", "1.50", "2", "10.25", "'77'"},
		{"date", "datetime(6)", "'2026-01-01'", "'2026-01-02'", "'2026-01-03'", "'2027-01-01'"},
		{"datetime(6)", "date", "'2026-01-01'", "'2026-01-02'", "'2026-01-03'", "'2027-01-01'"},
		{
			"uuid", "char(36)", "'0419D87B-d477-44e4-82c4-310f56faa3c7'", "'1419d87b-d477-44e4-82c4-310f56faa3c7'",
			"'2419d87b-d477-44e4-82c4-310f56faa3c7'", "'3419d87b-d477-44e4-82c4-310f56faa3c7'",
		},
		{
			"varchar(40)", "uuid", "'0419d87b-d477-44e4-82c4-310f56faa3c7'", "'1419d87b-d477-44e4-82c4-310f56faa3c7'",
			"'2419d87b-d477-44e4-82c4-310f56faa3c7'", "'3419d87b-d477-44e4-82c4-310f56faa3c7'",
		},
	},
	"sqlite": {
		{"integer", "text", "1", "2", "10", "'77'"},
		{"text", "integer", "'1'", "'2'", "'10'", "77"},
		{"integer", "numeric", "1", "2", "10", "77"},
	},
}

// A replica's key may have another type than the master's. What the types take for one key is one.
func TestKeysOfOtherTypesAreFoundEqualAndRepaired(t *testing.T) {
	onEach(t, func(t *testing.T, kind string, master, copies *bun.DB) {
		for _, types := range keyPairs[kind] {
			t.Run(types.on+" to "+types.off, func(t *testing.T) {
				p := newPair(t, master, copies,
					"id "+types.on+" PRIMARY KEY, v varchar(20)", "id "+types.off+" PRIMARY KEY, v varchar(20)", "")
				p.foundAndRepaired(types)
			})
		}
	})
}

func TestKeysOfAnotherDatabaseAreFoundEqualAndRepaired(t *testing.T) {
	kinds := dbtest.Kinds()
	for _, c := range []struct {
		on, off string
		keyTypes
	}{
		{"mariadb", "postgres", keyTypes{"bigint unsigned", "numeric(20)", "1", "2", "18446744073709551615", "77"}},
		{"postgres", "mariadb", keyTypes{"numeric(20)", "bigint unsigned", "1", "2", "18446744073709551615", "77"}},
		{"mariadb", "postgres", keyTypes{"datetime", "timestamptz", "'2026-01-01'", "'2026-01-02'", "'2026-01-03'", "'2027-01-01'"}},
		{"postgres", "sqlite", keyTypes{"bigint", "text", "1", "2", "10", "'77'"}},
		{"sqlite", "postgres", keyTypes{"text", "bigint", "'1'", "'2'", "'10'", "77"}},
	} {
		t.Run(c.on+" "+c.keyTypes.on+" to "+c.off+" "+c.keyTypes.off, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, dbtest.Open(t, kinds[c.on](t)), dbtest.Open(t, kinds[c.off](t)),
				"id "+c.keyTypes.on+" PRIMARY KEY, v varchar(20)", "id "+c.keyTypes.off+" PRIMARY KEY, v varchar(20)", "")
			p.foundAndRepaired(c.keyTypes)
		})
	}
}

func (p *pair) foundAndRepaired(types keyTypes) {
	p.Helper()
	p.exec(p.master, fmt.Sprintf("INSERT INTO parcels (id, v) VALUES (%s, 'a'), (%s, 'b'), (%s, 'c')", types.a, types.b, types.c))
	require.Empty(p, p.copy())
	for _, content := range []bool{false, true} {
		result := p.diff(content)
		require.True(p, result.Equal(), "content %v: %+v", content, result)
		require.Equal(p, 3, p.count(p.copies))
	}
	// Drift, and one row that only the replica has.
	p.exec(p.copies, "DELETE FROM parcels WHERE v = 'a'")
	p.exec(p.copies, "UPDATE parcels SET v = 'x' WHERE v = 'b'")
	p.exec(p.copies, "INSERT INTO parcels (id, v) VALUES ("+types.phantom+", 'phantom')")
	result := p.diff(true)
	require.EqualValues(p, 2, result.Differing)
	require.EqualValues(p, 1, result.Extra)
	require.EqualValues(p, 1, result.Deleted)
	require.Equal(p, 2, carry(p.Context(), p, p.master, p.rep))
	require.True(p, p.diff(true).Equal())
	require.Equal(p, 3, p.count(p.copies))
	// Without its ledger, the replica has the same rows, and none may be removed.
	p.exec(p.copies, "DELETE FROM replica_revisions")
	p.exec(p.copies, "UPDATE parcels SET v = 'a' WHERE v = 'b'") // so that a row that is removed and sent again shows
	require.EqualValues(p, 3, p.diff(true).Sent)
	require.Equal(p, 3, p.count(p.copies), "a row that the master has was removed")
	carry(p.Context(), p, p.master, p.rep)
	require.True(p, p.diff(true).Equal())
	require.Equal(p, 3, p.count(p.copies))
}

// A key that the replica's type would change is refused by name: two keys of the master could
// become one row.
func TestAKeyThatTheReplicaWouldChangeIsRefused(t *testing.T) {
	cases := map[string][]struct{ on, off, key, says string }{
		"postgres": {
			{"numeric(10,4)", "numeric(10,2)", "1.2345", "does not keep the value as it is"},
			{"char(8)", "char(20)", "'a'", "make it varchar or text"},
			{"timestamptz", "timestamp(0)", "'2026-01-01 10:00:00.5+00'", "does not keep the value as it is"},
			{"timestamptz", "date", "'2026-01-01 10:00:00+00'", "the column is a date"},
			{"varchar(10)", "bigint", "'007'", "another key in a column of integers"},
			{"varchar(10)", "bigint", "'S1'", "is no key of the replica's table"},
			{"text", "uuid", "'0419D87B-D477-44E4-82C4-310F56FAA3C7'", "stores it as another one"},
			{"text", "uuid", "'{1419d87b-d477-44e4-82c4-310f56faa3c7}'", "stores it as another one"},
		},
		"mariadb": {
			{"decimal(10,4)", "decimal(10,2)", "1.2345", "does not keep the value as it is"},
			{"datetime(6)", "datetime", "'2026-01-01 10:00:00.5'", "does not keep the value as it is"},
			{"datetime(6)", "date", "'2026-01-01 10:00:00'", "the column is a date"},
			{"varchar(10)", "bigint", "'007'", "another key in a column of integers"},
			{"varchar(10)", "decimal(10,0)", "'S1'", ""},
			{"varchar(40)", "uuid", "'0419D87B-D477-44E4-82C4-310F56FAA3C7'", "stores it as another one"},
		},
		"sqlite": {
			{"text", "integer", "'007'", "another key in a column of integers"},
			{"text", "integer", "'S1'", "is no key of the replica's table"},
		},
	}
	onEach(t, func(t *testing.T, kind string, master, copies *bun.DB) {
		for _, c := range cases[kind] {
			t.Run(c.on+" to "+c.off+" "+c.key, func(t *testing.T) {
				p := newPair(t, master, copies,
					"id "+c.on+" PRIMARY KEY, v varchar(20)", "id "+c.off+" PRIMARY KEY, v varchar(20)", "")
				p.exec(p.master, "INSERT INTO parcels (id, v) VALUES ("+c.key+", 'a')")
				bad := p.copy()
				require.Len(t, bad, 1)
				require.ErrorContains(t, bad[0], c.says)
				require.Zero(t, p.count(p.copies))
			})
		}
	})
}

// A text may be a number in the replica's column. Before the replica's ledger knows which, nothing
// is removed.
func TestARowThatMayBeAnotherSpellingOfAKeyIsNotRemoved(t *testing.T) {
	onEach(t, func(t *testing.T, kind string, master, copies *bun.DB) {
		if kind == "sqlite" {
			t.Skip("SQLite stores a number as it is given")
		}
		for _, types := range []struct{ on, off, key string }{
			{"varchar(40)", "numeric(10,4)", "'1.50'"},
			{"varchar(40)", "timestamp", "'2026-11-30T12:00:00Z'"},
		} {
			p := newPair(t, master, copies,
				"id "+types.on+" PRIMARY KEY, v varchar(20)", "id "+types.off+" PRIMARY KEY, v varchar(20)", "")
			p.exec(p.master, "INSERT INTO parcels (id, v) VALUES ("+types.key+", 'a')")
			require.Empty(t, p.copy())
			require.True(t, p.diff(true).Equal())
			p.exec(p.copies, "DELETE FROM replica_revisions")
			_, err := operate.Diff(t.Context(), p.box, p.rep, "parcel", io.Discard, operate.DiffOptions{})
			require.ErrorContains(t, err, "in another spelling")
			require.Equal(t, 1, p.count(p.copies))
			carry(t.Context(), t, p.master, p.rep)
			require.True(t, p.diff(true).Equal())
		}
	})
}

// The keys that a replica lists may be none of the master's at all. They are no rows that the
// master lacks.
func TestAKeyThatTheMasterCannotHaveIsAnErrorAndNoDelete(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		for _, typ := range []string{"bigint", "numeric(10)"} {
			t.Run(typ, func(t *testing.T) {
				p := newPair(t, master, copies,
					"id "+typ+" PRIMARY KEY, sku varchar(20)", "sku varchar(20) PRIMARY KEY", "")
				p.exec(p.master, "INSERT INTO parcels VALUES (1, 'S1')")
				for _, key := range []string{`"S1"`, `[1,2]`, `"1.5x"`} {
					_, err := operate.DeletedDiffMaster(p.Context(), p.box,
						strings.NewReader("parcel,2026-11-30 12:00:00.000000+00:00\n["+key+"]\n"), io.Discard, operate.Options{})
					require.ErrorContains(t, err, "is none of model", key)
				}
			})
		}
	})
}

// A replica that is keyed by another column would take every delete for another row's.
func TestAReplicaKeyedByAnotherColumnIsRefused(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		p := newPair(t, master, copies,
			"id varchar(20) PRIMARY KEY, sku varchar(20)", "sku varchar(20) PRIMARY KEY", "")
		p.exec(p.master, "INSERT INTO parcels VALUES ('a', 'S1'), ('b', 'S2')")
		p.exec(p.copies, "INSERT INTO parcels VALUES ('S1'), ('S2')")
		for _, content := range []bool{false, true} {
			_, err := operate.Diff(p.Context(), p.box, p.rep, "parcel", io.Discard, operate.DiffOptions{Content: content})
			require.ErrorContains(t, err, "keyed by the master's sku")
		}
		var listed bytes.Buffer
		_, err := operate.DiffMaster(p.Context(), p.box, "parcel", &listed, operate.DiffMasterOptions{Content: true})
		require.NoError(t, err)
		_, err = operate.DiffReplica(p.Context(), p.rep, &listed, io.Discard, operate.Options{})
		require.ErrorContains(t, err, "keyed by the master's sku")
		require.Equal(t, 2, p.count(p.copies))

		m, err := envelope.Decode([]byte(`{"signal_type":"SAVE","cqrs_id":"parcel","instance_pk":"a","instance_data":`+
			`{"id":"a","sku":"S1","cqrs_revision":0,"cqrs_updated":"2026-11-30 12:00:00+00:00"}}`), nil)
		require.NoError(t, err)
		results, err := p.rep.Apply(t.Context(), []*envelope.Message{m})
		require.NoError(t, err)
		require.ErrorContains(t, results[0].Err, `the master's key is "a"`)
		require.ErrorContains(t, results[0].Err, "key the table as the master's is keyed")
	})
}

// The parts of a key have an order. The file may give it.
func TestAKeyOfSeveralColumnsKeepsTheMastersOrder(t *testing.T) {
	onEach(t, func(t *testing.T, _ string, master, copies *bun.DB) {
		const on = "tenant varchar(20), id varchar(20), v varchar(20), PRIMARY KEY (tenant, id)"
		const off = "v varchar(20), id varchar(20), tenant varchar(20), PRIMARY KEY (id, tenant)"
		p := newPair(t, master, copies, on, off, "")
		p.exec(p.master, "INSERT INTO parcels (tenant, id, v) VALUES ('a', 'b', 'x'), ('b', 'a', 'y')")
		_, err := operate.Diff(p.Context(), p.box, p.rep, "parcel", io.Discard, operate.DiffOptions{})
		require.ErrorContains(t, err, "another order")

		p = newPair(t, master, copies, on, off, ", key: [tenant, id]")
		p.exec(p.master, "INSERT INTO parcels (tenant, id, v) VALUES ('a', 'b', 'x'), ('b', 'a', 'y')")
		require.Empty(t, p.copy())
		require.True(t, p.diff(true).Equal())
		p.exec(p.copies, "UPDATE parcels SET v = 'z' WHERE tenant = 'a'")
		require.EqualValues(t, 1, p.diff(true).Sent)
		carry(t.Context(), t, p.master, p.rep)
		require.True(t, p.diff(true).Equal())
	})
}
