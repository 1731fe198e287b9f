package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/column"
	"github.com/cqrsync/cqrsync/internal/catalog"
)

// What a column becomes is decided by the name of the type that it comes down to, and by nothing
// else: docs/types.md has the same tables, and a test holds them together.

// family is what a type is to us.
type family int

const (
	texts family = iota // decimals too: no digit is lost
	integers
	naturals // unsigned, and too large for integers
	truths
	flags // MariaDB's boolean, which is a number
	singles
	doubles
	moments
	dates
	documents
	binaries
	bitFields
	paddedTexts
	decimals // texts that may be NaN
	uuids
	clocks // MariaDB's time, which has the zeros of a fraction
)

var postgresTypes = map[string]family{
	"bool": truths, "int2": integers, "int4": integers, "int8": integers, "oid": integers,
	"float4": singles, "float8": doubles, "numeric": decimals,
	"timestamp": moments, "timestamptz": moments, "date": dates,
	"time": texts, "timetz": texts, "interval": texts,
	"json": documents, "jsonb": documents, "bytea": binaries,
	"text": texts, "varchar": texts, "bpchar": paddedTexts, "name": texts, "char": texts, "xml": texts,
	"uuid": uuids, "inet": texts, "cidr": texts, "macaddr": texts, "macaddr8": texts,
	"bit": texts, "varbit": texts,
	"point": texts, "line": texts, "lseg": texts, "box": texts, "path": texts, "polygon": texts,
	"circle":   texts,
	"tsvector": texts, "tsquery": texts, "jsonpath": texts, "pg_lsn": texts,
}

// addedTypes are those of extensions whose text says all of a value.
var addedTypes = []string{"citext", "hstore", "ltree"}

var mysqlTypes = map[string]family{
	"tinyint": integers, "smallint": integers, "mediumint": integers, "int": integers,
	"bigint": integers,
	"year":   integers, "bit": bitFields, "float": singles, "double": doubles, "decimal": decimals,
	"datetime": moments, "timestamp": moments, "date": dates, "time": clocks,
	"json": documents, "char": texts, "varchar": texts,
	"tinytext": texts, "text": texts, "mediumtext": texts, "longtext": texts, "enum": texts,
	"set":  texts,
	"uuid": uuids, "inet4": texts, "inet6": texts,
	"binary": binaries, "varbinary": binaries,
	"tinyblob": binaries, "blob": binaries, "mediumblob": binaries, "longblob": binaries,
}

// sqliteTypes are the names that people give. SQLite takes any, and goes by letters in it.
var sqliteTypes = map[string]family{
	"integer": integers, "int": integers, "bigint": integers, "smallint": integers,
	"tinyint": integers, "mediumint": integers, "int2": integers, "int4": integers,
	"int8": integers, "unsigned big int": integers,
	// Django's positive ones.
	"integer unsigned": integers, "smallint unsigned": integers, "bigint unsigned": integers,
	"boolean": truths, "bool": truths,
	"real": doubles, "double": doubles, "double precision": doubles, "float": doubles,
	"numeric": decimals, "decimal": decimals,
	"timestamp": moments, "datetime": moments, "timestamptz": moments, "date": dates, "time": texts,
	"json": documents, "jsonb": documents, "blob": binaries, "bytea": binaries,
	"text": texts, "varchar": texts, "character varying": texts, "char": texts, "character": texts,
	"nchar": texts, "nvarchar": texts, "varying character": texts, "native character": texts,
	"clob": texts,
	"uuid": texts,
}

// saidType is the Go type for a column of which the file says what it holds.
func saidType(c catalog.Column, said string) (reflect.Type, error) {
	if said != "uuid" {
		return nil, fmt.Errorf("types: %q, want uuid, which is all that can be said", said)
	}
	switch c.UUIDForm() {
	case catalog.TextUUID:
		return reflect.TypeFor[column.TextUUID](), nil
	case catalog.HexUUID:
		return reflect.TypeFor[column.HexUUID](), nil
	case catalog.BinaryUUID:
		return reflect.TypeFor[column.BinaryUUID](), nil
	}
	return nil, fmt.Errorf("types: its type %s holds no uuid; "+
		"want uuid, char(32), char(36), binary(16), text or bytea", c.Type)
}

// goType is the Go type for a column, and the SQL type that bun must know of.
func goType(name dialect.Name, c catalog.Column) (reflect.Type, string, error) {
	f, known := familyOf(name, c)
	if !known || c.Array && c.Base == "box" { // of which a list has semicolons
		return nil, "", fmt.Errorf("its type %s is not known here; leave it out (list the others "+
			"under columns), or make it one of docs/types.md", c.Type)
	}
	if c.Array {
		return arrayOf(f), "", nil
	}
	if c.IsKey && (f == uuids || f == decimals || f == paddedTexts) {
		// Two spellings of a uuid may be two keys where the master has them in a column of texts:
		// the file has to say that it is a uuid there.
		return reflect.TypeFor[string](), "", nil
	}
	switch f {
	case integers:
		if c.IsKey {
			return reflect.TypeFor[int64](), "", nil
		}
		return reflect.TypeFor[number](), "", nil
	case naturals:
		return reflect.TypeFor[uint64](), "", nil
	case truths:
		return reflect.TypeFor[bool](), "", nil
	case flags:
		return reflect.TypeFor[flag](), "", nil
	case singles:
		return reflect.TypeFor[float32](), "", nil
	case doubles:
		return reflect.TypeFor[float64](), "", nil
	case moments:
		return reflect.TypeFor[time.Time](), "", nil
	case dates:
		return reflect.TypeFor[time.Time](), "date", nil
	case documents:
		if c.Base == "jsonb" {
			return reflect.TypeFor[json.RawMessage](), "jsonb", nil
		}
		return reflect.TypeFor[json.RawMessage](), "json", nil
	case binaries:
		return reflect.TypeFor[[]byte](), "", nil
	case bitFields:
		return reflect.TypeFor[bits](), "", nil
	case clocks:
		return reflect.TypeFor[clock](), "", nil
	case uuids:
		return reflect.TypeFor[column.TextUUID](), "", nil
	case decimals:
		return reflect.TypeFor[decimal](), "", nil
	case paddedTexts:
		return reflect.TypeFor[padded](), "", nil
	default:
		return reflect.TypeFor[string](), "", nil
	}
}

func familyOf(name dialect.Name, c catalog.Column) (family, bool) {
	switch name {
	case dialect.PG:
		switch c.Class {
		case catalog.EnumType, catalog.RangeType, catalog.CompositeType:
			return texts, true
		case catalog.AddedType:
			return texts, slices.Contains(addedTypes, c.Base)
		}
		f, known := postgresTypes[c.Base]
		return f, known
	case dialect.MySQL:
		f, known := mysqlTypes[c.Base]
		switch {
		case c.Base == "tinyint" && strings.HasPrefix(c.Type, "tinyint(1)"):
			f = flags
		case c.Base == "bigint" && c.Unsigned:
			f = naturals
		}
		return f, known
	default:
		f, known := sqliteTypes[c.Base]
		return f, known
	}
}

func arrayOf(f family) reflect.Type {
	switch f {
	case singles, doubles:
		return reflect.TypeFor[array[floatElement]]()
	case integers:
		return reflect.TypeFor[array[numberElement]]()
	case truths:
		return reflect.TypeFor[array[truthElement]]()
	case documents:
		return reflect.TypeFor[array[documentElement]]()
	default:
		return reflect.TypeFor[array[textElement]]()
	}
}
