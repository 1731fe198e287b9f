package catalog

import (
	"context"
	"database/sql/driver"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// exactDigits is how many decimal digits SQLite keeps of a text that it stores as a number.
const exactDigits = 15

// Rounded returns those fields of a table that hold decimals as texts, and whose columns make
// numbers of texts, so that '12.340000000000000000001' would become 12.34 without a word: by
// column, the type that the column was declared with. Only SQLite does that; a declared precision
// of up to 15 digits is taken for a promise that there are no more.
func (c *Catalog) Rounded(
	ctx context.Context, db bun.IDB, table *schema.Table,
) (map[string]string, error) {
	query := c.dialect.numbers()
	if query == "" {
		return nil, nil
	}
	name := table.Name[strings.LastIndex(table.Name, ".")+1:]
	declared := map[string]string{}
	err := readFacts(ctx, db, query, []any{name}, func(column, _, typ string) {
		declared[column] = typ
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog about table %s: %w", name, err)
	}
	rounded := map[string]string{}
	for _, f := range table.Fields {
		if typ, isNumber := declared[f.Name]; isNumber && !isPrecise(typ) && holdsText(f) {
			rounded[f.Name] = typ
		}
	}
	return rounded, nil
}

var precision = regexp.MustCompile(`\(\s*(\d+)`)

func isPrecise(declared string) bool {
	found := precision.FindStringSubmatch(declared)
	if found == nil {
		return false
	}
	digits, err := strconv.Atoi(found[1])
	return err == nil && digits <= exactDigits
}

// holdsText says that a field's values reach the database as texts that may be numbers. Of types
// that write themselves it asks the zero value.
func holdsText(f *schema.Field) (isText bool) {
	typ := f.IndirectType
	if typ.Kind() == reflect.String {
		return true
	}
	valuer, ok := reflect.New(typ).Interface().(driver.Valuer)
	if !ok || typ.Kind() != reflect.Struct {
		return false
	}
	defer func() { _ = recover() }() // it does not like its zero value: then nothing is known
	if field := reflect.ValueOf(valuer).Elem().FieldByName("Valid"); field.IsValid() &&
		field.CanSet() && field.Kind() == reflect.Bool {
		field.SetBool(true) // sql.NullString and its like
	}
	value, err := valuer.Value()
	_, isText = value.(string)
	return isText && err == nil
}

// numbers lists the columns that make a number of a text that looks like one: SQLite's affinities
// INTEGER, REAL and NUMERIC, but for types whose texts look like none.
func (sqlite) numbers() string {
	return `SELECT name, '', type FROM pragma_table_xinfo(?0)
		WHERE type <> '' AND (type LIKE '%int%'
			OR NOT (type LIKE '%char%' OR type LIKE '%clob%' OR type LIKE '%text%' OR type LIKE '%blob%'))
			AND NOT (type LIKE '%date%' OR type LIKE '%time%' OR type LIKE '%uuid%' OR type LIKE '%bool%')`
}

func (postgres) numbers() string { return "" }
func (mariadb) numbers() string  { return "" }
