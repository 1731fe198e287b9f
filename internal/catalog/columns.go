package catalog

import (
	"context"
	"regexp"
	"strings"

	"github.com/uptrace/bun"
)

// Column is what the catalog says of a column.
type Column struct {
	Name string
	// Type is the column's as the database spells it, for people; on PostgreSQL without its limits,
	// so that casts to it do not cut.
	Type string
	// Base is the name of the type that it comes down to, in lower case and without limits: of a
	// domain the type below it, of an array that of its elements.
	Base string
	// Class says what kind of type Base is.
	Class TypeClass
	// Array says that the column holds lists of Base.
	Array bool
	// Unsigned says that an integer knows no sign.
	Unsigned bool
	// Size is how many characters, bytes or bits it may have, 0 where the database does not care.
	Size int
	// Scale is how many digits may follow the point of a decimal, or of seconds. A value with more
	// is rounded. It is negative where the database does not care.
	Scale int
	// NotNull and IsKey, which is to be a part of the primary key, are as in its definition.
	NotNull, IsKey bool
	// HasDefault says that an INSERT may leave the column out although it is NotNull.
	HasDefault bool
	// Generated says that the database computes the column: nobody else can write it.
	Generated bool
	// IdentityAlways says that only an INSERT can choose its value, and must say so.
	IdentityAlways bool
	// ZeroDraws says that MariaDB puts the next number of AUTO_INCREMENT in the place of a 0.
	ZeroDraws bool
	// Folded names what takes two spellings for one value: a collation or a type; empty where there
	// is none.
	Folded string
}

// TypeClass is what kind of type a column has.
type TypeClass string

// The classes of types.
const (
	// BuiltIn is a type that comes with the database.
	BuiltIn TypeClass = ""
	// EnumType has labels, RangeType two ends, CompositeType fields.
	EnumType      TypeClass = "enum"
	RangeType     TypeClass = "range"
	CompositeType TypeClass = "composite"
	// AddedType is one that somebody has added, as extensions do.
	AddedType TypeClass = "added"
)

// columnFacts are what the queries return.
type columnFacts struct {
	Name, Type, Base, Detail string
	Class                    TypeClass
	IsArray                  bool
	Modifier                 int64 // PostgreSQL's, or MariaDB's digits after the point
	Length                   int64
	NotNull, IsKey           bool
	HasDefault, IsGenerated  bool
	IdentityAlways           bool
	ZeroDraws                bool
	Folded                   string
}

func tableColumns(
	ctx context.Context, db bun.IDB, q catalogQueries, args []any,
) ([]Column, error) {
	var facts []columnFacts
	if err := db.NewRaw(q.columns, args...).Scan(ctx, &facts); err != nil {
		return nil, err
	}
	columns := make([]Column, len(facts))
	for i, f := range facts {
		columns[i] = Column{
			Name: f.Name, Type: f.Type, Base: strings.ToLower(f.Base), Class: f.Class, Array: f.IsArray,
			Scale: -1, NotNull: f.NotNull, IsKey: f.IsKey, HasDefault: f.HasDefault,
			Generated: f.IsGenerated, IdentityAlways: f.IdentityAlways, ZeroDraws: f.ZeroDraws,
			Folded: f.Folded,
		}
		q.read(&columns[i], f)
	}
	return columns, nil
}

// postgresColumns follows domains and arrays down to what they are made of.
const postgresColumns = `
	WITH RECURSIVE below (attnum, oid, modifier, is_array) AS (
		SELECT attnum, atttypid, atttypmod, false FROM pg_attribute
		WHERE attrelid = to_regclass(?0) AND attnum > 0 AND NOT attisdropped
		UNION ALL
		SELECT b.attnum, CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.typelem END,
			CASE WHEN t.typtype = 'd' AND b.modifier < 0 THEN t.typtypmod ELSE b.modifier END,
			b.is_array OR t.typtype <> 'd'
		FROM below AS b JOIN pg_type AS t ON t.oid = b.oid
		WHERE t.typtype = 'd' OR ` + postgresArray + `
	)
	SELECT a.attname AS name, format_type(a.atttypid, -1) AS type, t.typname AS base, b.is_array,
		CASE
			WHEN t.typtype = 'e' THEN 'enum'
			WHEN t.typtype IN ('r', 'm') THEN 'range'
			WHEN t.typtype = 'c' THEN 'composite'
			WHEN n.nspname = 'pg_catalog' THEN ''
			ELSE 'added'
		END AS class,
		b.modifier, a.attnotnull AS not_null,
		EXISTS (SELECT 1 FROM pg_index AS i
			WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)) AS is_key,
		a.atthasdef OR a.attidentity <> '' AS has_default, a.attgenerated <> '' AS is_generated,
		a.attidentity = 'a' AS identity_always,
		CASE
			WHEN t.typname = 'citext' THEN 'type citext'
			WHEN NOT l.collisdeterministic THEN 'collation ' || l.collname
			ELSE ''
		END AS folded
	FROM below AS b
		JOIN pg_type AS t ON t.oid = b.oid AND t.typtype <> 'd' AND NOT ` + postgresArray + `
		JOIN pg_namespace AS n ON n.oid = t.typnamespace
		JOIN pg_attribute AS a ON a.attrelid = to_regclass(?0) AND a.attnum = b.attnum
		LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
	ORDER BY a.attnum`

// postgresArray leaves out the vectors, which look like arrays in the catalog and not as a text.
const postgresArray = `(t.typcategory = 'A' AND t.typlen = -1 AND t.typelem <> 0 AND
	t.typname NOT IN ('int2vector', 'oidvector'))`

func readPostgresColumn(c *Column, f columnFacts) {
	const header = 4 // of a value that tells its own length
	switch c.Base {
	case "numeric":
		if f.Modifier >= header {
			scale := (f.Modifier - header) & 0x7ff
			c.Scale = int(max(0, scale-(scale&0x400)<<1)) // it may be negative: 0x7ff is -1
		}
	case "timestamp", "timestamptz", "time", "timetz":
		c.Scale = 6
		if f.Modifier >= 0 {
			c.Scale = int(f.Modifier)
		}
	case "varchar", "bpchar":
		c.Size = int(max(0, f.Modifier-header))
	case "bit", "varbit":
		c.Size = int(max(0, f.Modifier))
	}
}

// mysqlColumns names the table in each part: what depends on a row of another part makes MariaDB
// open all tables of the server.
const mysqlColumns = `
	SELECT column_name AS name, column_type AS type, data_type AS base, coalesce(extra, '') AS detail,
		coalesce(numeric_scale, datetime_precision, 0) AS modifier,
		coalesce(character_maximum_length, numeric_precision, 0) AS length,
		is_nullable = 'NO' AS not_null, column_key = 'PRI' AS is_key,
		column_default IS NOT NULL OR extra LIKE '%auto_increment%' AS has_default,
		is_generated <> 'NEVER' AS is_generated, 
		extra LIKE '%auto_increment%'
			AND NOT find_in_set('NO_AUTO_VALUE_ON_ZERO', @@sql_mode) AS zero_draws,
		CASE WHEN collation_name IS NULL OR collation_name LIKE '%nopad\_bin' THEN ''
			ELSE concat('collation ', collation_name) END AS folded,
		concat('json_valid(', '` + "`', column_name, '`" + `', ')') IN (
			SELECT check_clause FROM information_schema.check_constraints
			WHERE constraint_schema = coalesce(nullif(?1, ''), database()) AND table_name = ?0) AS is_array
	FROM information_schema.columns AS c WHERE`

// readMySQLColumn knows MariaDB's JSON by the check that comes with it, which stands in IsArray.
func readMySQLColumn(c *Column, f columnFacts) {
	if f.IsArray {
		c.Array, c.Base, c.Folded = false, "json", ""
	}
	c.Unsigned = strings.Contains(c.Type, "unsigned")
	switch c.Base {
	case "decimal", "time", "datetime", "timestamp":
		c.Scale = int(f.Modifier)
	case "char", "varchar", "binary", "varbinary", "bit":
		c.Size = int(f.Length)
	}
}

// sqliteColumns asks indexes for collations, because SQLite does not tell those of columns.
const sqliteColumns = `
	SELECT x.name, x.type, x.type AS base, x."notnull" AS not_null, x.pk > 0 AS is_key,
		x.dflt_value IS NOT NULL AS has_default, x.hidden IN (2, 3) AS is_generated,
		coalesce((SELECT m.sql FROM sqlite_schema AS m
			WHERE m.type = 'table' AND lower(m.name) = lower(?0) AND ?1 IN ('', 'main')), '') AS detail,
		coalesce((SELECT 'collation ' || i.coll
			FROM pragma_index_list(?0, nullif(?1, '')) AS l, pragma_index_xinfo(l.name, nullif(?1, '')) AS i
			WHERE l."unique" AND i.key AND i.name = x.name AND i.coll <> 'BINARY' LIMIT 1), '') AS folded
	FROM pragma_table_xinfo(?0, nullif(?1, '')) AS x WHERE x.hidden <> 1 ORDER BY x.cid`

var sqliteType = regexp.MustCompile(`^([^(]*)(?:\([^)]*\))?(.*)$`)

// jsonCheck is the constraint by which Django, and others, keep JSON in a column of texts.
var jsonCheck = regexp.MustCompile(
	`(?i)\bcheck\s*\(+\s*json_valid\s*\(\s*["\x60\[]?(\w+)["\x60\]]?\s*\)` +
		`(?:\s+or\s+["\x60\[]?(\w+)["\x60\]]?\s+is\s+null)?\s*\)`)

// isJSON says that a table's statement lets nothing but JSON into a column.
func isJSON(statement, column string) bool {
	for _, found := range jsonCheck.FindAllStringSubmatch(statement, -1) {
		if strings.EqualFold(found[1], column) && (found[2] == "" ||
			strings.EqualFold(found[2], column)) {
			return true
		}
	}
	return false
}

// readSQLiteColumn takes the limits off a type. SQLite does not mind them.
func readSQLiteColumn(c *Column, f columnFacts) {
	c.Type = strings.ToLower(c.Type)
	parts := sqliteType.FindStringSubmatch(strings.TrimSpace(c.Type))
	c.Base = strings.Join(strings.Fields(parts[1]+" "+parts[2]), " ")
	c.Base = strings.TrimSuffix(c.Base, " generated always") // PRAGMA leaves it on
	c.Unsigned = strings.Contains(c.Base, "unsigned")
	if c.Base == "text" && isJSON(f.Detail, c.Name) {
		c.Base = "json"
	}
}
