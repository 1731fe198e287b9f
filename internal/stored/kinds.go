package stored

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
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
func Kinds(
	ctx context.Context, db bun.IDB, table *schema.Table, key []*schema.Field,
) ([]Kind, error) {
	names := make([]string, len(key))
	for i, field := range key {
		names[i] = string(field.SQLName)
	}
	rows, err := db.QueryContext(ctx, "SELECT ? FROM ? WHERE 1 = 0",
		bun.Safe(strings.Join(names, ", ")), table.SQLName)
	if err != nil {
		return nil, fmt.Errorf("ask for the key of table %s: %w", table.Name, err)
	}
	defer func() { _ = rows.Close() }() // the second time, unless something failed before
	types, err := rows.ColumnTypes()
	if err != nil || len(types) != len(key) {
		return nil, fmt.Errorf("ask for the key of table %s: %w", table.Name, err)
	}
	kinds := make([]Kind, len(key))
	for i, field := range key {
		kinds[i] = kindOf(field, types[i])
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil ||
		db.Dialect().Name() != dialect.MySQL {
		return kinds, err
	}
	return kinds, findUUIDs(ctx, db, table, key, kinds)
}

// findUUIDs asks MariaDB's catalog which columns are uuids: its protocol calls them texts.
func findUUIDs(
	ctx context.Context, db bun.IDB, table *schema.Table, key []*schema.Field, kinds []Kind,
) error {
	in, name, qualified := strings.Cut(table.Name, ".")
	if !qualified {
		in, name = "", table.Name
	}
	var uuids []string
	err := db.NewRaw(`SELECT column_name FROM information_schema.columns
		WHERE table_schema = coalesce(nullif(?, ''), database()) AND table_name = ?
			AND data_type = 'uuid'`,
		in, name).Scan(ctx, &uuids)
	if err != nil {
		return fmt.Errorf("ask for the key of table %s: %w", table.Name, err)
	}
	for i, field := range key {
		if slices.Contains(uuids, field.Name) && field.IndirectType.Kind() == reflect.String {
			kinds[i] = UUID
		}
	}
	return nil
}

func kindOf(field *schema.Field, column *sql.ColumnType) Kind {
	name, _, _ := strings.Cut(strings.ToUpper(column.DatabaseTypeName()), "(")
	switch kind := field.IndirectType.Kind(); {
	case KnowsItsColumn(field.IndirectType):
		return Text
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

// IsRespelled says that a column of the kind stores a key, given as a text, in another spelling, so
// that two keys of somebody who keeps texts may be one here.
func (k Kind) IsRespelled(text string) bool {
	return k == UUID && !canonicalUUID.MatchString(text)
}

var canonicalUUID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

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
