package answers_test

// columnType is a type of a column on a master, with values that it prints in as many ways as it has,
// and what it becomes on each replica.
type columnType struct {
	// types have one answer; the first stands for them in the test, the others in another test's table.
	ddl    string
	also   string   // further names of docs/types.md that are the same to us
	values []string // SQL
	wire   string   // what travels
	on     map[string]kept
}

// kept is what a value becomes.
type kept struct {
	ddl string
	// prints is how the replica's database prints the values, where that is not as the master's does.
	prints []string
	// note says in docs/types.md what is lost, or needed.
	note string
	// refused is a part of the error with which the values, all of them, are refused.
	refused string
}

// same is exact: it prints as the master's.
func same(ddl string) kept { return kept{ddl: ddl} }

// as is exact, and prints otherwise.
func as(ddl string, prints ...string) kept { return kept{ddl: ddl, prints: prints} }

// refused is what a type does with the values: an error and a dead letter.
func refused(ddl, part string) kept { return kept{ddl: ddl, refused: part} }

func (k kept) because(note string) kept { k.note = note; return k }

func on(postgres, mariadb, sqlite kept) map[string]kept {
	return map[string]kept{"postgres": postgres, "mariadb": mariadb, "sqlite": sqlite}
}

// setup are statements that the types need.
var setup = map[string][]string{
	"postgres": {
		"CREATE TYPE print_state AS ENUM ('new', 'Old')",
		"CREATE TYPE pair AS (a integer, b text)",
		"CREATE DOMAIN digest AS bytea", "CREATE DOMAIN flag AS boolean", "CREATE DOMAIN doc AS jsonb",
		"CREATE DOMAIN cents AS bigint", "CREATE DOMAIN moment AS timestamptz",
	},
}

const (
	rounds = "would round it"
	tooBig = "64 bits"
)

var answers = map[string][]columnType{
	"postgres": {
		{ddl: "boolean", wire: "true, false", values: []string{"true", "false"},
			on: on(same("boolean"), as("boolean", "1", "0"), as("boolean", "1", "0"))},
		{ddl: "flag", also: "a domain over any of these", wire: "as the type below",
			values: []string{"true", "false"}, on: on(same("flag"), as("tinyint(1)", "1", "0"), as("integer", "1", "0"))},
		{ddl: "smallint", wire: "number", values: []string{"-32768", "32767"},
			on: on(same("smallint"), same("smallint"), same("integer"))},
		{ddl: "integer", wire: "number", values: []string{"-2147483648", "2147483647"},
			on: on(same("integer"), same("int"), same("integer"))},
		{ddl: "bigint", also: "serial, identity", wire: "number", values: []string{"-9223372036854775808", "9223372036854775807"},
			on: on(same("bigint"), same("bigint"), same("integer"))},
		{ddl: "cents", wire: "number", values: []string{"-1", "5"}, on: on(same("cents"), same("bigint"), same("bigint"))},
		{ddl: "real", wire: "number", values: []string{"0.1", "-1.5", "16777216"},
			on: on(as("double precision", "0.1", "-1.5", "16777216"), as("double", "0.1", "-1.5", "16777216"),
				as("real", "0.1", "-1.5", "16777216.0"))},
		{ddl: "double precision", wire: "number", values: []string{"0.1", "-1e300", "1234567890.1234567"},
			on: on(same("double precision"), as("double", "0.1", "-1e300", "1234567890.1234567"), as("real", "0.1", "-1.0e+300", "1234567890.1234567"))},
		{ddl: "float8", also: "float4: what is not finite", wire: "`NaN`, `Infinity`, `-Infinity`, bare, as Python has them",
			values: []string{"'NaN'", "'Infinity'", "'-Infinity'"},
			on: on(same("double precision"), refused("double", "neither NaN nor an infinity").because("`nan_as_null` stores NULL"),
				as("real", "NaN", "Inf", "-Inf"))},
		{ddl: "float8[]", also: "float4[]: with such among others", wire: "list, with `NaN` bare", values: []string{"'{1.5,NaN,-Infinity}'"},
			on: on(same("float8[]"), refused("json", "NaN or an infinity within it"), refused("json", "NaN or an infinity within it"))},
		{ddl: "numeric(20,2)", also: "numeric: NaN", wire: "string `NaN`", values: []string{"'NaN'"},
			on: on(same("numeric(20,2)"), refused("decimal(20,2)", "neither NaN nor an infinity"), same("text"))},
		{ddl: "numeric(38,10)", also: "numeric, decimal", wire: "string of digits",
			values: []string{"12345678901234567890.0123456789", "-0.0000000001", "1.5000000000"},
			on:     on(same("numeric(38,10)"), same("decimal(38,10)"), same("text"))},
		{ddl: "numeric(12,4)", wire: "string of digits", values: []string{"1.2345", "-1.0001"},
			on: on(refused("numeric(12,2)", rounds), refused("decimal(12,2)", rounds), same("decimal(12,4)"))},
		{ddl: "numeric(30,12)", wire: "string of digits", values: []string{"123456789012.123456789012"},
			on: on(same("varchar(40)"), same("varchar(40)"), refused("numeric", "declare it text"))},
		{ddl: "text", also: "varchar, citext, name, xml", wire: "string",
			values: []string{"'it''s'", "''", "E'line\\n\\ttab \\\\ \" {} NULL ü 🎉'", "' spaces '", "'null'", "'1.50'"},
			on:     on(same("text"), same("longtext"), same("text"))},
		{ddl: "varchar(8)", wire: "string", values: []string{"'abc'", "'ABC  '", "'🎉🎉🎉🎉🎉🎉🎉🎉'"},
			on: on(same("varchar(8)"), same("varchar(8)"), same("varchar(8)"))},
		{ddl: "char(4)", wire: "string, with the spaces that fill it", values: []string{"'EURO'"},
			on: on(same("char(4)"), same("char(4)"), same("text"))},
		{ddl: "char(5)", wire: "string, with the spaces that fill it", values: []string{"'EUR'"},
			on: on(same("char(5)"), refused("char(5)", "loses spaces"), as("text", "EUR  "))},
		{ddl: "bytea", wire: "base64", values: []string{`'\xff80'`, `'\x'`, `'\x00c3284100'`},
			on: on(same("bytea"), same("longblob"), same("blob"))},
		{ddl: "digest", wire: "base64", values: []string{`'\xff80'`, `'\x00'`},
			on: on(same("digest"), same("varbinary(64)"), same("blob"))},
		{ddl: "timestamptz", wire: "time in UTC",
			values: []string{"'2026-03-29 02:30:00.123456+05:30'", "'0001-01-02 00:00:00+00'", "'9999-12-31 23:59:59.999999+00'"},
			on: on(same("timestamptz"),
				as("datetime(6)", "2026-03-28 21:00:00.123456", "0001-01-02 00:00:00.000000", "9999-12-31 23:59:59.999999"),
				as("timestamp", "2026-03-28 21:00:00.123456+00:00", "0001-01-02 00:00:00+00:00", "9999-12-31 23:59:59.999999+00:00"))},
		{ddl: "moment", wire: "time in UTC", values: []string{"'2026-01-01 00:00:00+00'"},
			on: on(same("moment"), as("timestamp(6)", "2026-01-01 00:00:00.000000"), as("datetime", "2026-01-01 00:00:00+00:00"))},
		{ddl: "timestamp", wire: "time, taken for UTC", values: []string{"'2026-03-29 02:30:00.5'", "'1066-10-14 09:00:00'"},
			on: on(same("timestamp"), as("datetime(6)", "2026-03-29 02:30:00.500000", "1066-10-14 09:00:00.000000"),
				as("timestamp", "2026-03-29 02:30:00.5+00:00", "1066-10-14 09:00:00+00:00"))},
		{ddl: "timestamp(3)", wire: "time", values: []string{"'2026-03-29 02:30:00.123'"},
			on: on(refused("timestamp(0)", "make it timestamp(6)"), refused("datetime", "make it datetime(6)"),
				as("timestamp", "2026-03-29 02:30:00.123+00:00"))},
		{ddl: "date", wire: "date", values: []string{"'2026-11-30'", "'0001-01-02'", "'9999-12-31'"},
			on: on(same("date"), same("date"), same("date"))},
		{ddl: "timestamp(0)", wire: "time", values: []string{"'2026-03-29 02:30:00'"},
			on: on(refused("date", "lose the time of day"), refused("date", "lose the time of day"), as("text", "2026-03-29 02:30:00+00:00"))},
		{ddl: "time", also: "timetz", wire: "string", values: []string{"'23:59:59.999999'", "'00:00:00'"},
			on: on(same("time"), as("time(6)", "23:59:59.999999", "00:00:00.000000"), same("time"))},
		{ddl: "interval", wire: "string", values: []string{"'1 year 2 days -03:04:05.5'"},
			on: on(same("interval"), same("varchar(100)"), same("text"))},
		{ddl: "json", wire: "JSON, without spaces", values: []string{`'{"b": [1, null, 1.50], "a":"ü"}'`, `'[]'`},
			on: on(as("json", `{"b":[1,null,1.50],"a":"ü"}`, "[]"), as("json", `{"b":[1,null,1.50],"a":"ü"}`, "[]"),
				as("json", `{"b":[1,null,1.50],"a":"ü"}`, "[]"))},
		{ddl: "jsonb", wire: "JSON", values: []string{`'{"b": [1, null, 1.50], "a":"ü"}'`, `'"text"'`},
			on: on(same("jsonb"), as("json", `{"a":"ü","b":[1,null,1.50]}`, `"text"`), as("json", `{"a":"ü","b":[1,null,1.50]}`, `"text"`))},
		{ddl: "doc", wire: "JSON", values: []string{`'{"a": 1}'`}, on: on(same("doc"), as("json", `{"a":1}`), as("json", `{"a":1}`))},
		{ddl: "uuid", wire: "string", values: []string{"'5F0C6F5E-0000-4000-8000-0123456789AB'"},
			on: on(same("uuid"), same("uuid"), same("uuid"))},
		{ddl: "print_state", also: "an enum", wire: "string", values: []string{"'new'", "'Old'"},
			on: on(same("print_state"), same("enum('Old','new')"), same("text"))},
		{ddl: "inet", also: "cidr, macaddr, macaddr8", wire: "string", values: []string{"'10.0.0.1/24'", "'::1'"},
			on: on(same("inet"), same("varchar(50)"), same("text"))},
		{ddl: "bit(5)", wire: "string of 0 and 1", values: []string{"B'01011'", "B'00000'"},
			on: on(same("bit(5)"), as("bit(5)", "11", "0"), same("text"))},
		{ddl: "varbit", wire: "string of 0 and 1", values: []string{"B'0101'", "B''"},
			on: on(same("varbit"), same("varchar(64)"), same("text"))},
		{ddl: "point", also: "line, lseg, box, path, polygon, circle", wire: "string", values: []string{"'(-1.5,2.25)'"},
			on: on(same("point"), same("varchar(100)"), same("text"))},
		{ddl: "int4range", also: "the other ranges and multiranges", wire: "string", values: []string{"'[1,5)'", "'empty'"},
			on: on(same("int4range"), same("varchar(100)"), same("text"))},
		{ddl: "tstzrange", wire: "string", values: []string{"'[2026-01-01 00:00+00,)'"},
			on: on(same("tstzrange"), same("varchar(100)"), same("text"))},
		{ddl: "pair", also: "a composite type", wire: "string", values: []string{`'(1,"a b")'`},
			on: on(same("pair"), same("text"), same("text"))},
		{ddl: "tsvector", also: "tsquery, jsonpath, pg_lsn", wire: "string", values: []string{`'''a'':1 ''b'':2'`},
			on: on(same("tsvector"), same("text"), same("text"))},
		{ddl: "integer[]", also: "arrays of numbers", wire: "list", values: []string{"'{1,NULL,-3}'", "'{}'", "'{{1,2},{3,4}}'"},
			on: on(same("integer[]"), as("json", "[1,null,-3]", "[]", "[[1,2],[3,4]]"), as("json", "[1,null,-3]", "[]", "[[1,2],[3,4]]"))},
		{ddl: "text[]", also: "arrays of anything else", wire: "list",
			values: []string{`ARRAY['a', 'b,c', '"\', NULL, 'NULL', '', '{}']`},
			on:     on(same("text[]"), as("json", `["a","b,c","\"\\",null,"NULL","","{}"]`), as("json", `["a","b,c","\"\\",null,"NULL","","{}"]`))},
		{ddl: "boolean[]", wire: "list", values: []string{"'{t,f,NULL}'"},
			on: on(same("boolean[]"), as("json", "[true,false,null]"), as("json", "[true,false,null]"))},
		{ddl: "print_state[]", wire: "list", values: []string{"'{new,Old}'"},
			on: on(same("print_state[]"), as("json", `["new","Old"]`), as("json", `["new","Old"]`))},
	},
	"mariadb": {
		{ddl: "boolean", also: "tinyint(1)", wire: "true, false; other numbers as they are", values: []string{"1", "0"},
			on: on(as("boolean", "true", "false"), same("boolean"), same("boolean"))},
		{ddl: "tinyint(1)", wire: "number", values: []string{"3", "-128"},
			on: on(refused("boolean", "a number cannot be read as bool"), same("tinyint(1)"), same("integer"))},
		{ddl: "tinyint", also: "smallint, mediumint", wire: "number", values: []string{"-128", "127", "1", "0"},
			on: on(same("smallint"), same("tinyint"), same("tinyint"))},
		{ddl: "int unsigned", wire: "number", values: []string{"4294967295", "0"},
			on: on(same("bigint"), same("int unsigned"), same("integer"))},
		{ddl: "bigint", wire: "number", values: []string{"-9223372036854775808", "9223372036854775807"},
			on: on(same("bigint"), same("bigint"), same("bigint"))},
		{ddl: "bigint unsigned", wire: "number", values: []string{"18446744073709551615"},
			on: on(same("numeric(20)"), same("bigint unsigned"), refused("integer", tooBig).because("`text` keeps it"))},
		{ddl: "bigint unsigned zerofill", wire: "number", values: []string{"18446744073709551615"},
			on: on(refused("bigint", tooBig), same("decimal(20)"), same("text"))},
		{ddl: "year", wire: "number", values: []string{"1999"}, on: on(same("smallint"), same("year"), same("integer"))},
		{ddl: "bit(16)", also: "bit(1) to bit(64)", wire: "number", values: []string{"b'1111111110000001'", "b'0'"},
			on: on(as("bigint", "65409", "0"), as("bit(16)", "65409", "0"), as("integer", "65409", "0"))},
		{ddl: "bit(1)", wire: "number", values: []string{"b'1'", "b'0'"},
			on: on(refused("boolean", "a number cannot be read as bool").because("make it smallint"), as("bit(1)", "1", "0"), as("integer", "1", "0"))},
		{ddl: "float", wire: "number, of the six digits that MariaDB prints", values: []string{"0.1", "-1.5"},
			on: on(same("real"), same("float"), same("real"))},
		{ddl: "double", wire: "number", values: []string{"0.1", "1234567890.1234567", "1e300"},
			on: on(as("double precision", "0.1", "1234567890.1234567", "1e+300"), same("double"),
				as("double", "0.1", "1234567890.1234567", "1.0e+300"))},
		{ddl: "decimal(30,10)", wire: "string of digits", values: []string{"12345678901234567890.0123456789", "-0.5"},
			on: on(same("numeric(30,10)"), same("decimal(30,10)"), same("text"))},
		{ddl: "decimal(8,4)", wire: "string of digits", values: []string{"0.1234"},
			on: on(refused("numeric(8,2)", rounds), refused("decimal(8,2)", rounds), same("decimal(8,4)"))},
		{ddl: "double(10,4)", wire: "number", values: []string{"0.1234"},
			on: on(refused("smallint", "integer"), refused("int", "integer"), same("real"))},
		{ddl: "varchar(20)", also: "text and its kind", wire: "string",
			values: []string{"'it''s'", "''", "'\\\\ \" ü 🎉'", "' spaces '", "'1.50'"},
			on:     on(same("varchar(20)"), same("varchar(20)"), same("varchar(20)"))},
		{ddl: "char(4)", wire: "string", values: []string{"'EUR'", "'EURO'"},
			on: on(same("varchar(4)"), same("char(4)"), same("char(4)"))},
		{ddl: "char(5)", wire: "string", values: []string{"'EUR'"},
			on: on(as("char(5)", "EUR  "), same("text"), same("text"))},
		{ddl: "longtext", wire: "string", values: []string{"'long'", "'NULL'"}, on: on(same("text"), same("longtext"), same("text"))},
		{ddl: "enum('printed','shipped')", wire: "string", values: []string{"'printed'", "'shipped'"},
			on: on(same("text"), same("enum('shipped','printed')"), same("text"))},
		{ddl: "enum('2','1')", wire: "string", values: []string{"'2'"},
			on: on(same("varchar(3)"), refused("enum('Two','Three')", "none of the labels"), same("text"))},
		{ddl: "set('a','b')", wire: "string", values: []string{"'b,a'", "''"},
			on: on(same("text"), same("set('a','b')"), same("text"))},
		{ddl: "varbinary(20)", also: "blob and its kind", wire: "base64", values: []string{"x'ff80'", "x''", "x'00c328'"},
			on: on(same("bytea"), same("varbinary(20)"), same("blob"))},
		{ddl: "binary(3)", wire: "base64", values: []string{"x'ff8000'"},
			on: on(same("bytea"), same("binary(3)"), same("blob"))},
		{ddl: "varbinary(3)", wire: "base64", values: []string{"x'ff'"},
			on: on(same("bytea"), refused("binary(3)", "fills up"), same("blob"))},
		{ddl: "datetime(6)", wire: "time, taken for UTC", values: []string{"'2026-03-29 02:30:00.123456'", "'1066-10-14 09:00:00'"},
			on: on(as("timestamptz", "2026-03-29 02:30:00.123456+00", "1066-10-14 09:00:00+00"), same("datetime(6)"),
				as("datetime", "2026-03-29 02:30:00.123456+00:00", "1066-10-14 09:00:00+00:00"))},
		{ddl: "datetime", wire: "time", values: []string{"'2026-03-29 02:30:00'"},
			on: on(same("timestamp"), same("datetime"), as("timestamp", "2026-03-29 02:30:00+00:00"))},
		{ddl: "timestamp(3) NULL", also: "timestamp", wire: "time in UTC", values: []string{"'2026-03-29 02:30:00.123'"},
			on: on(same("timestamp(3)"), same("timestamp(3) NULL"), as("timestamp", "2026-03-29 02:30:00.123+00:00"))},
		{ddl: "date", wire: "date", values: []string{"'2026-11-30'", "'9999-12-31'"}, on: on(same("date"), same("date"), same("date"))},
		{ddl: "time(6)", wire: "string", values: []string{"'-838:59:58.000000'", "'23:59:59.999999'"},
			on: on(as("text", "-838:59:58", "23:59:59.999999"), same("time(6)"), as("time", "-838:59:58", "23:59:59.999999"))},
		{ddl: "json", wire: "JSON, without spaces", values: []string{`'{"b": [1, null, 1.50], "a":"ü"}'`, `'[]'`},
			on: on(as("json", `{"b":[1,null,1.50],"a":"ü"}`, "[]"), as("json", `{"b":[1,null,1.50],"a":"ü"}`, "[]"),
				as("json", `{"b":[1,null,1.50],"a":"ü"}`, "[]"))},
		{ddl: "uuid", wire: "string", values: []string{"'5F0C6F5E-0000-4000-8000-0123456789AB'"},
			on: on(same("uuid"), same("uuid"), same("uuid"))},
		{ddl: "inet6", also: "inet4", wire: "string", values: []string{"'::1'"}, on: on(same("inet"), same("inet6"), same("text"))},
	},
	"sqlite": {
		{ddl: "integer", also: "int, bigint and its kind", wire: "number",
			values: []string{"-9223372036854775808", "9223372036854775807", "0"}, on: on(same("bigint"), same("bigint"), same("integer"))},
		{ddl: "boolean", also: "bool", wire: "true, false", values: []string{"true", "false"},
			on: on(as("boolean", "true", "false"), same("boolean"), same("boolean"))},
		{ddl: "real", also: "double, float", wire: "number", values: []string{"0.1", "-1.5"},
			on: on(same("double precision"), same("double"), same("real"))},
		{ddl: "real", also: "double, float: what is not finite", wire: "`Infinity`, `-Infinity`, bare, as Python has them",
			values: []string{"9e999", "-9e999"},
			on:     on(as("double precision", "Infinity", "-Infinity"), refused("double", "neither NaN nor an infinity"), same("real"))},
		{ddl: "decimal(10,2)", also: "numeric", wire: "string of digits", values: []string{"'1.25'", "-7"},
			on: on(as("numeric(10,2)", "1.25", "-7.00"), as("decimal(10,2)", "1.25", "-7.00"), same("decimal(10,2)"))},
		{ddl: "text", also: "varchar, char and their kind", wire: "string",
			values: []string{"'it''s'", "''", "'\\ \" ü 🎉 ' || char(10)", "' spaces '", "'1.50'"},
			on:     on(same("text"), same("text"), same("text"))},
		{ddl: "varchar(3)", wire: "string", values: []string{"'ab   '"},
			on: on(refused("varchar(3)", "make it longer"), refused("varchar(3)", "make it longer"), same("varchar(3)"))},
		{ddl: "blob", wire: "base64", values: []string{"x'ff80'", "x'00c328'"}, on: on(same("bytea"), same("blob"), same("blob"))},
		{ddl: "timestamp", also: "datetime", wire: "time in UTC", values: []string{"'2026-03-29 02:30:00.123456+00:00'"},
			on: on(as("timestamptz", "2026-03-29 02:30:00.123456+00"), as("datetime(6)", "2026-03-29 02:30:00.123456"), same("timestamp"))},
		{ddl: "date", wire: "date", values: []string{"'2026-11-30'"}, on: on(same("date"), same("date"), same("date"))},
		{ddl: "time", wire: "string", values: []string{"'23:59:59'"}, on: on(same("time"), same("time"), same("time"))},
		{ddl: "json", also: "jsonb, text with CHECK (json_valid(…))", wire: "JSON, without spaces",
			values: []string{`'{"b": [1, null, 1.50], "a":"ü"}'`},
			on: on(as("json", `{"b":[1,null,1.50],"a":"ü"}`), as("json", `{"b":[1,null,1.50],"a":"ü"}`),
				as("json", `{"b":[1,null,1.50],"a":"ü"}`))},
		{ddl: "uuid", wire: "string", values: []string{"'5f0c6f5e-0000-4000-8000-0123456789ab'"},
			on: on(same("uuid"), same("uuid"), same("uuid"))},
	},
}

// unknown are types that are refused when a cqrsync.yaml is read, by name.
var unknown = map[string][]string{
	"postgres": {"money", "oidvector", "xid", "regclass", "pg_snapshot", "box[]"},
	"mariadb":  {"point", "geometry", "polygon"},
	"sqlite":   {"", "any", "print_state", "string"},
}
