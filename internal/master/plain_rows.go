package master

import (
	"fmt"
	"strconv"
	"strings"
)

// PlainRows says how rows of a user's table are found and compared with states: the table and its
// columns, in SQL. The nil PlainRows compares nothing.
type PlainRows struct{ table, found, types string }

// NewPlainRows makes them for a table from quoted names and the result of PlainColumns.
func NewPlainRows(table string, keys, columns []string, types map[string]string) *PlainRows {
	found := make([]string, len(keys))
	for i, key := range keys {
		found[i] = "cqrs_row." + key + " = (cqrs_state.named)." + key
	}
	typed := make([]string, len(columns))
	for i, column := range columns {
		typed[i] = fmt.Sprintf("pg_typeof(cqrs_row.%s) = '%s'::regtype",
			column, types[strings.Trim(column, `"`)])
	}
	return &PlainRows{table, strings.Join(found, " AND "), strings.Join(typed, " AND ")}
}

// noDeferred is the condition that no trigger is deferred: what one writes when the transaction
// commits is in no comparison before it.
const noDeferred = "NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgdeferrable AND NOT tgisinternal)"

// same is a condition: the row of a state, an expression for its JSON, is byte for byte what the
// state says, in columns of the types that were asked for.
func (r *PlainRows) same(state string) string {
	if r == nil {
		return "TRUE"
	}
	return "EXISTS (SELECT 1 FROM " + r.compared(state) + ") AND " + noDeferred
}

// sameAs is same for a condition that names the key and the values of all columns as literals: with
// a text of its own, for one row, it is planned in half of the time.
func (r *PlainRows) sameAs(row string) string {
	if r == nil {
		return "TRUE"
	}
	return "EXISTS (SELECT 1 FROM " + r.table + " AS " + ComparedRow + " WHERE " + row + " AND " +
		r.types + ") AND " + noDeferred
}

// ComparedRow is the name of the row in Entity.Row.
const ComparedRow = "cqrs_row"

// allSame is same for n states, an expression for an array of them.
func (r *PlainRows) allSame(states string, n int) string {
	if r == nil {
		return "TRUE"
	}
	return strconv.Itoa(n) + " = (SELECT count(*) FROM unnest(" + states +
		") AS cqrs_states(state) CROSS JOIN LATERAL " +
		r.compared("cqrs_states.state") + ") AND " + noDeferred
}

// compared is a table that has a row if a state's row is there and is equal. OFFSET 0 keeps the
// order of its steps: read the state, find the row by its key, compare. What the planner guesses of
// the conditions would make it read the table.
func (r *PlainRows) compared(state string) string {
	return fmt.Sprintf("(SELECT jsonb_populate_record(NULL::%s, s.state) AS named, s.state FROM "+
		"(SELECT %s::jsonb AS state) AS s OFFSET 0) AS cqrs_state CROSS JOIN LATERAL (SELECT 1 "+
		"FROM %s AS cqrs_row WHERE %s AND %s AND cqrs_row *= jsonb_populate_record(cqrs_row, "+
		"cqrs_state.state) OFFSET 0) AS cqrs_equal",
		r.table, state, r.table, r.found, r.types)
}

func (r *PlainRows) text() string {
	if r == nil {
		return ""
	}
	return r.table + r.found + r.types
}
