package stored

import (
	"context"
	"database/sql"
	"fmt"
	"reflect"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/schema"
)

// Kind is what a key column takes for two spellings of one value.
type Kind int

const (
	// Other is a column of which nothing is known here: the database has to be asked.
	Other Kind = iota
	// Whole is an integer or a boolean in Go.
	Whole
	// Text has one spelling of each value.
	Text
	// Number is a decimal number that Go keeps as a text.
	Number
	// UUID is a uuid that Go keeps as a text.
	UUID
	// Date is a day without a clock.
	Date
)

// Exact says that two different texts are two values.
func (k Kind) Exact() bool { return k == Whole || k == Text }

// Kinds asks the database of what kinds the columns of a key are. It reads no row.
func Kinds(ctx context.Context, db bun.IDB, table *schema.Table, key []*schema.Field) ([]Kind, error) {
	names := make([]string, len(key))
	for i, field := range key {
		names[i] = string(field.SQLName)
	}
	rows, err := db.QueryContext(ctx, "SELECT ? FROM ? WHERE 1 = 0",
		bun.Safe(strings.Join(names, ", ")), table.SQLName)
	if err != nil {
		return nil, fmt.Errorf("ask for the key of table %s: %w", table.Name, err)
	}
	defer func() { _ = rows.Close() }() // there is no row whose error could be lost
	types, err := rows.ColumnTypes()
	if err != nil || len(types) != len(key) {
		return nil, fmt.Errorf("ask for the key of table %s: %w", table.Name, err)
	}
	kinds := make([]Kind, len(key))
	for i, field := range key {
		kinds[i] = kindOf(field, types[i])
	}
	return kinds, rows.Err()
}

func kindOf(field *schema.Field, column *sql.ColumnType) Kind {
	name, _, _ := strings.Cut(strings.ToUpper(column.DatabaseTypeName()), "(")
	switch kind := field.IndirectType.Kind(); {
	case name == "DATE":
		return Date
	case kind >= reflect.Bool && kind <= reflect.Uint64:
		return Whole
	case kind != reflect.String:
		return Other
	}
	switch strings.TrimSpace(name) {
	case "TEXT", "VARCHAR", "CHARACTER VARYING":
		return Text
	case "NUMERIC", "DECIMAL", "BIGINT", "INT", "INTEGER", "INT8", "INT4", "INT2", "SMALLINT",
		"UNSIGNED BIGINT", "UNSIGNED INT":
		return Number
	case "UUID":
		return UUID
	default:
		return Other
	}
}

// Check says what is wrong with a key, where a database would take it for another one without a
// word: MariaDB reads the text S1 as the number 0.
func (k Kind) Check(field *schema.Field, row reflect.Value) error {
	value := reflect.Indirect(field.Value(row))
	if !value.IsValid() || value.Kind() != reflect.String {
		return nil
	}
	switch {
	case k == Number && !decimal.MatchString(value.String()):
		return fmt.Errorf("column %s holds numbers, not %.40q", field.Name, value.String())
	case k == UUID && !uuid.MatchString(value.String()):
		return fmt.Errorf("column %s holds uuids, not %.40q", field.Name, value.String())
	}
	return nil
}
