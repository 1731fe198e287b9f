package manifest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// column is what the catalog says of one.
type column struct {
	Name    string
	Type    string
	NotNull bool
	IsKey   bool // part of the primary key
}

// columnsOf asks the catalog. Columns that the database computes are left out: they can be read but not written.
func columnsOf(ctx context.Context, db *bun.DB, table string) ([]column, error) {
	schema, name, qualified := strings.Cut(table, ".")
	if !qualified {
		schema, name = "", table
	}
	var query *bun.RawQuery
	switch db.Dialect().Name() {
	case dialect.PG:
		query = db.NewRaw(`
			SELECT a.attname AS name, format_type(a.atttypid, NULL) AS type, a.attnotnull AS not_null,
				EXISTS (SELECT 1 FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY (i.indkey)) AS is_key
			FROM pg_attribute a
			WHERE a.attrelid = to_regclass(?) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
			ORDER BY a.attnum`, quoted(schema, name))
	case dialect.MySQL:
		query = db.NewRaw(`
			SELECT c.column_name AS name,
				CASE WHEN EXISTS (SELECT 1 FROM information_schema.check_constraints k
					WHERE k.constraint_schema = c.table_schema AND k.table_name = c.table_name
						AND k.check_clause = concat('json_valid(', '`+"`', c.column_name, '`"+`)'))
					THEN 'json' ELSE c.column_type END AS type,
				c.is_nullable = 'NO' AS not_null, c.column_key = 'PRI' AS is_key
			FROM information_schema.columns c
			WHERE c.table_schema = coalesce(nullif(?, ''), database()) AND c.table_name = ?
				AND coalesce(c.generation_expression, '') = ''
			ORDER BY c.ordinal_position`, schema, name)
	default:
		query = db.NewRaw(`SELECT name, type, "notnull" AS not_null, pk > 0 AS is_key FROM pragma_table_info(?)`, name)
	}
	var columns []column
	if err := query.Scan(ctx, &columns); err != nil {
		return nil, fmt.Errorf("read the columns of table %s: %w", table, err)
	}
	if len(columns) == 0 {
		return nil, fmt.Errorf("table %s does not exist", table)
	}
	return columns, nil
}

func quoted(schema, name string) string {
	if schema == "" {
		return `"` + name + `"`
	}
	return `"` + schema + `"."` + name + `"`
}

// typeOf makes the struct that a service would have written for the table.
func typeOf(ctx context.Context, db *bun.DB, m Model) (reflect.Type, error) {
	columns, err := columnsOf(ctx, db, m.Table)
	if err != nil {
		return nil, err
	}
	fields := []reflect.StructField{{
		Name: "BaseModel", Type: reflect.TypeFor[bun.BaseModel](), Anonymous: true,
		Tag: reflect.StructTag(fmt.Sprintf(`bun:"table:%s,alias:t"`, m.Table)),
	}}
	if err := m.checkNames(columns); err != nil {
		return nil, err
	}
	// A key of several columns is a list in the order that the file gives them.
	slices.SortStableFunc(columns, func(a, b column) int { return m.rank(a.Name) - m.rank(b.Name) })
	keys := 0
	for i, c := range columns {
		if len(m.Key) > 0 {
			c.IsKey = slices.Contains(m.Key, c.Name)
		}
		_, constant := m.Constants[c.Name]
		if !c.IsKey && !constant && len(m.Columns) > 0 && !slices.Contains(m.Columns, c.Name) {
			continue
		}
		if c.IsKey {
			keys++
		}
		if !columnName.MatchString(c.Name) {
			return nil, fmt.Errorf("column %q of table %s: names of letters, digits and _ are known here: list the others under columns", c.Name, m.Table)
		}
		fields = append(fields, c.field(i, db.Dialect().Name()))
	}
	if keys == 0 {
		return nil, fmt.Errorf("table %s has no primary key: name the columns under key", m.Table)
	}
	return reflect.StructOf(fields), nil
}

// rank is the place of a column in the file's key, and behind it for all others.
func (m Model) rank(name string) int {
	if i := slices.Index(m.Key, name); i >= 0 {
		return i
	}
	return len(m.Key)
}

// checkNames says which names of the file the table does not have.
func (m Model) checkNames(columns []column) error {
	var errs []error
	check := func(field, name string) {
		if !slices.ContainsFunc(columns, func(c column) bool { return c.Name == name }) {
			errs = append(errs, fmt.Errorf("%s: table %s has no column %q", field, m.Table, name))
		}
	}
	for _, name := range m.Key {
		check("key", name)
	}
	for _, name := range m.Columns {
		check("columns", name)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Constants)) {
		check("constants", name)
	}
	for _, name := range slices.Sorted(maps.Keys(m.Map)) {
		check("map", name)
		if len(m.Columns) > 0 && !slices.Contains(m.Columns, name) && !slices.Contains(m.Key, name) &&
			!slices.ContainsFunc(columns, func(c column) bool { return c.Name == name && c.IsKey && len(m.Key) == 0 }) {
			errs = append(errs, fmt.Errorf("map: column %q is not among columns, so it is not kept: add it there", name))
		}
	}
	return errors.Join(errs...)
}

// field is the field of the struct. Its Go name is nobody's business.
func (c column) field(i int, name dialect.Name) reflect.StructField {
	typ, sqlType := goType(name, strings.ToLower(c.Type))
	if !c.NotNull && !c.IsKey && typ.Kind() != reflect.Slice {
		typ = reflect.PointerTo(typ)
	}
	tag := c.Name
	if c.IsKey {
		tag += ",pk"
	}
	if sqlType != "" {
		tag += ",type:" + sqlType
	}
	return reflect.StructField{
		Name: fmt.Sprintf("Column%d", i), Type: typ,
		Tag: reflect.StructTag(fmt.Sprintf(`bun:"%s" json:"%s"`, tag, c.Name)),
	}
}

var (
	integer = reflect.TypeFor[int64]()
	text    = reflect.TypeFor[string]() // decimals too: no digit is lost
	moment  = reflect.TypeFor[time.Time]()
	object  = reflect.TypeFor[json.RawMessage]()
	binary  = reflect.TypeFor[[]byte]()
)

// goType is the Go type for a column, and the SQL type that bun must know of.
func goType(name dialect.Name, sqlType string) (reflect.Type, string) {
	has := func(parts ...string) bool {
		return slices.ContainsFunc(parts, func(part string) bool { return strings.Contains(sqlType, part) })
	}
	isArray := strings.HasSuffix(sqlType, "[]")
	switch {
	case isArray, has("interval"), has("range"):
		return text, ""
	case sqlType == "date":
		return moment, "date"
	case name == dialect.PG && has("time zone") && !strings.HasPrefix(sqlType, "timestamp"):
		return text, "" // a time of day
	case has("timestamp", "datetime"):
		return moment, ""
	case has("bool"), sqlType == "tinyint(1)":
		return reflect.TypeFor[bool](), ""
	case has("bigint") && has("unsigned"):
		return reflect.TypeFor[uint64](), ""
	case name == dialect.PG && has("int") && !has("point"), name != dialect.PG && has("int", "year") && !has("point"):
		return integer, ""
	case has("double", "real", "float"):
		return reflect.TypeFor[float64](), ""
	case sqlType == "json", sqlType == "jsonb":
		return object, sqlType
	case has("bytea", "blob", "binary"):
		return binary, ""
	default:
		return text, ""
	}
}
