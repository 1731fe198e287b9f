package stored

import (
	"database/sql"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"github.com/uptrace/bun/schema"
)

// badDate is a column of queries on MariaDB: the name of one that holds a date which is none.
const badDate = "cqrsync_bad_date"

var errBadDate = errors.New("the date is zero, or has a month or a day that is zero")

// Whole has a query read all columns of the table, and notice what drivers hide.
func (r *Rows) Whole(query *bun.SelectQuery) *bun.SelectQuery {
	if checked := r.Checked(query, r.table.Fields); r.datesOf(query, r.table.Fields) != "" {
		return checked.ColumnExpr("?TableColumns")
	}
	return query
}

// Checked has a query of some columns notice dates that are none. MariaDB has them where sql_mode
// allows it, 0000-00-00 and 2026-00-31, and the driver makes the years 1 and 2025 of them.
func (r *Rows) Checked(query *bun.SelectQuery, fields []*schema.Field) *bun.SelectQuery {
	if dates := r.datesOf(query, fields); dates != "" {
		return query.ColumnExpr("CASE ? END AS ?", bun.Safe(dates), bun.Ident(badDate))
	}
	return query
}

func (r *Rows) datesOf(query *bun.SelectQuery, fields []*schema.Field) string {
	if query.Dialect().Name() != dialect.MySQL {
		return ""
	}
	var cases strings.Builder
	for _, f := range fields {
		switch f.IndirectType {
		case reflect.TypeFor[time.Time](), reflect.TypeFor[bun.NullTime](),
			reflect.TypeFor[sql.NullTime]():
			name := string(r.table.SQLAlias) + "." + string(f.SQLName)
			fmt.Fprintf(&cases, " WHEN MONTH(%s) = 0 OR DAYOFMONTH(%s) = 0 THEN '%s'",
				name, name, strings.ReplaceAll(f.Name, "'", "''"))
		}
	}
	return cases.String()
}

// checkBool refuses a number that is neither true nor false, of which bun would make true.
func checkBool(field *schema.Field, src any) error {
	if field.IndirectType.Kind() != reflect.Bool {
		return nil
	}
	switch v := src.(type) {
	case int64:
		if v != 0 && v != 1 {
			return errors.New("it is neither 0 nor 1")
		}
	case []byte:
		if len(v) == 1 && v[0] > 1 && v[0] != '0' && v[0] != '1' ||
			len(v) > 1 && v[0] >= '0' && v[0] <= '9' {
			return errors.New("it is neither 0 nor 1")
		}
	}
	return nil
}
