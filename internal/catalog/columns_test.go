package catalog_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/catalog"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// columnsOf makes a table t in an empty database and reads the catalog about it.
func columnsOf(t *testing.T, rawURL string, statements ...string) map[string]catalog.Column {
	t.Helper()
	db := dbtest.Open(t, rawURL)
	for _, statement := range statements {
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	shape, err := catalog.ShapeOf(t.Context(), db, string(db.QueryGen().AppendIdent(nil, "t")), "t")
	require.NoError(t, err)
	require.Equal(t, "t", shape.Name)
	byName := map[string]catalog.Column{}
	for _, c := range shape.Columns {
		byName[c.Name] = c
	}
	return byName
}

func TestTypesOfPostgresComeFromBelowTheirNames(t *testing.T) {
	columns := columnsOf(t, dbtest.PostgresURL(t),
		"CREATE TYPE print_state AS ENUM ('new')", "CREATE TYPE pair AS (a int, b text)",
		"CREATE DOMAIN digest AS bytea", "CREATE DOMAIN short_digest AS digest", "CREATE DOMAIN cents AS numeric(12,4)",
		"CREATE DOMAIN tags AS text[]",
		`CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s print_state, p pair, d short_digest,
			c cents, l tags, a print_state[], m cents[], n numeric(5,2) NOT NULL, at timestamp(3), b bit(5),
			v varchar(7) DEFAULT 'x' NOT NULL, g int GENERATED ALWAYS AS (1 + 1) STORED, r tstzrange, ov oidvector)`)
	for name, want := range map[string]catalog.Column{
		"id": {Base: "int8", NotNull: true, IsKey: true, HasDefault: true, IdentityAlways: true, Scale: -1},
		"s":  {Base: "print_state", Class: catalog.EnumType, Scale: -1},
		"p":  {Base: "pair", Class: catalog.CompositeType, Scale: -1},
		"d":  {Base: "bytea", Scale: -1},
		"c":  {Base: "numeric", Scale: 4},
		"l":  {Base: "text", Array: true, Scale: -1},
		"a":  {Base: "print_state", Class: catalog.EnumType, Array: true, Scale: -1},
		"m":  {Base: "numeric", Array: true, Scale: 4},
		"n":  {Base: "numeric", Scale: 2, NotNull: true},
		"at": {Base: "timestamp", Scale: 3},
		"b":  {Base: "bit", Size: 5, Scale: -1},
		"v":  {Base: "varchar", Size: 7, Scale: -1, NotNull: true, HasDefault: true},
		"g":  {Base: "int4", Generated: true, HasDefault: true, Scale: -1},
		"r":  {Base: "tstzrange", Class: catalog.RangeType, Scale: -1},
		"ov": {Base: "oidvector", Scale: -1},
	} {
		want.Name, want.Type = name, columns[name].Type
		require.Equal(t, want, columns[name])
	}
}

func TestTypesOfMariaDBComeFromTheirOwnColumn(t *testing.T) {
	columns := columnsOf(t, dbtest.MariaDBURL(t),
		`CREATE TABLE t (id bigint unsigned AUTO_INCREMENT PRIMARY KEY, s enum('printed','real'), j json, flag tinyint(1),
			b bit(16), at datetime(3), d decimal(12,4) NOT NULL, code varchar(7) COLLATE utf8mb4_nopad_bin,
			name varchar(9) COLLATE utf8mb4_bin, g int AS (1 + 1) STORED)`)
	for name, want := range map[string]catalog.Column{
		"id": {Base: "bigint", Unsigned: true, NotNull: true, IsKey: true, HasDefault: true,
			Scale: -1, ZeroDraws: true},
		"s":    {Base: "enum", Scale: -1, Folded: columns["s"].Folded},
		"j":    {Base: "json", Scale: -1},
		"flag": {Base: "tinyint", Scale: -1},
		"b":    {Base: "bit", Size: 16, Scale: -1},
		"at":   {Base: "datetime", Scale: 3},
		"d":    {Base: "decimal", Scale: 4, NotNull: true},
		"code": {Base: "varchar", Size: 7, Scale: -1},
		"name": {Base: "varchar", Size: 9, Scale: -1, Folded: "collation utf8mb4_bin"},
		"g":    {Base: "int", Generated: true, Scale: -1},
	} {
		want.Name, want.Type = name, columns[name].Type
		want.HasDefault = want.HasDefault || columns[name].HasDefault && !want.NotNull // DEFAULT NULL
		require.Equal(t, want, columns[name])
	}
}

func TestTypesOfSQLiteAreWithoutTheirLimits(t *testing.T) {
	columns := columnsOf(t, dbtest.SQLiteURL(t),
		`CREATE TABLE t (id integer PRIMARY KEY, d DECIMAL(10, 2) NOT NULL, u unsigned  big int, code text COLLATE NOCASE UNIQUE,
			g int GENERATED ALWAYS AS (1 + 1) STORED, x)`)
	for name, want := range map[string]catalog.Column{
		"id": {Base: "integer", IsKey: true}, "d": {Base: "decimal", NotNull: true},
		"u": {Base: "unsigned big int", Unsigned: true}, "code": {Base: "text", Folded: "collation NOCASE"},
		"g": {Base: "int", Generated: true}, "x": {},
	} {
		want.Name, want.Type, want.Scale = name, columns[name].Type, -1
		require.Equal(t, want, columns[name])
	}
}

func TestTablesAreFoundByTheirSchema(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			db := dbtest.Open(t, newURL(t))
			schema := "main"
			if name != "sqlite" {
				current := "SELECT " + map[string]string{"postgres": "current_schema", "mariadb": "database()"}[name]
				require.NoError(t, db.NewRaw(current).Scan(t.Context(), &schema))
			}
			_, err := db.ExecContext(t.Context(), "CREATE TABLE t (id bigint PRIMARY KEY, t_id bigint REFERENCES t (id), "+
				"v varchar(20) NOT NULL UNIQUE)")
			require.NoError(t, err)
			plain, err := catalog.ShapeOf(t.Context(), db, string(db.QueryGen().AppendIdent(nil, "t")), "t")
			require.NoError(t, err)
			qualified := schema + ".t"
			shape, err := catalog.ShapeOf(t.Context(), db, string(db.QueryGen().AppendIdent(nil, qualified)), qualified)
			require.NoError(t, err)
			require.Equal(t, plain, shape)
			require.Len(t, shape.Unique, 2)
			require.Len(t, shape.References, 1)
			require.Equal(t, shape.Name, shape.References[0].Table)
			require.Contains(t, strings.Join(shape.Required(), " "), "v")
			nothing, err := catalog.ShapeOf(t.Context(), db, string(db.QueryGen().AppendIdent(nil, "no.t")), "no.t")
			if name != "sqlite" { // which says that the schema is unknown
				require.NoError(t, err)
			}
			require.Empty(t, nothing.Name)
		})
	}
}

func TestColumnsOfSQLiteAreJSONWhereACheckSaysSo(t *testing.T) {
	columns := columnsOf(t, dbtest.SQLiteURL(t), `CREATE TABLE "t" ("id" integer NOT NULL PRIMARY KEY AUTOINCREMENT,
		"django" text NULL CHECK ((JSON_VALID("django") OR "django" IS NULL)),
		"strict" text NOT NULL CHECK ((JSON_VALID("strict"))), bare TEXT, longer text, either text, [quoted] text,
		"number" integer unsigned NOT NULL CHECK ("number" >= 0),
		CHECK (json_valid(bare)), CONSTRAINT q CHECK ( json_valid ( [quoted] ) OR quoted is null ),
		CHECK (json_valid(either) OR length(either) < 3), CHECK (json_valid(longer) OR either IS NULL))`)
	for name, want := range map[string]string{
		"django": "json", "strict": "json", "bare": "json", "quoted": "json",
		"longer": "text", "either": "text", "id": "integer", "number": "integer unsigned",
	} {
		require.Equal(t, want, columns[name].Base, name)
	}
}
