package manifest

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/catalog"
)

// conditionOf is the model's filter, empty for none, as it may stand in any statement in which the
// table is t. The rule for it: it tells from nothing but the row whether the row is sent. When
// anything else changes that it asked for (another table, the time, a setting), no row is written,
// and nobody would send or delete the rows for which it holds since, or does not any more.
func (m Model) conditionOf(ctx context.Context, db *bun.DB) (condition string, err error) {
	if m.Filter == "" {
		return "", nil
	}
	name := db.Dialect().Name()
	words, err := wordsOf(m.Filter, name)
	switch {
	case err != nil:
	case name == dialect.PG:
		table := string(db.QueryGen().AppendIdent(nil, m.Table))
		if condition, err = postgresCondition(ctx, db, table, m.Filter); err == nil {
			err = checkMoments(words, condition)
		}
	default:
		condition, err = m.rowCondition(ctx, db, words)
	}
	if err != nil {
		return "", fmt.Errorf("filter: %q: %w", m.Filter, err)
	}
	return condition, nil
}

// postgresCondition has PostgreSQL read a condition. It holds it to the rules of an index's own
// condition, which are the same for the same reason, and returns how PostgreSQL prints what it
// understood: every column with its table, every type and function with its schema. So the function
// of a trigger, which has another search path, means the same.
func postgresCondition(
	ctx context.Context, db *bun.DB, table, text string,
) (condition string, err error) {
	tx, err := db.DB.BeginTx(ctx, nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, tx.Rollback()) }() // nothing of it stays
	for _, statement := range []string{
		`SET TRANSACTION READ WRITE`,
		`SET LOCAL "TimeZone" = 'UTC'`, `SET LOCAL "DateStyle" = 'ISO'`,
		`SET LOCAL "IntervalStyle" = 'postgres'`, `SET LOCAL extra_float_digits = 1`,
		`SET LOCAL bytea_output = 'hex'`, `SET LOCAL quote_all_identifiers = off`,
		`SET LOCAL standard_conforming_strings = on`, `SET LOCAL client_min_messages = warning`,
		`CREATE TEMPORARY TABLE t (LIKE ` + table + `)`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return "", fmt.Errorf("it is checked by means of a temporary table, which this role or this "+
				"server does not allow: %w", err)
		}
	}
	for _, statement := range []string{
		`CREATE INDEX ON pg_temp.t ((1)) WHERE (` + text + `)`,
		`CREATE TEMPORARY VIEW cqrsync_condition AS ` +
			`SELECT 1 FROM pg_temp.t, (SELECT 1) AS cqrsync_other WHERE (` + text + `)`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return "", fmt.Errorf("%w, %s%s", err, whatIsOneOf, whyNot(err))
		}
	}
	var printed string
	err = tx.QueryRowContext(ctx, `SELECT pg_get_viewdef('pg_temp.cqrsync_condition'::regclass)
		FROM set_config('search_path', 'pg_catalog', true)`).Scan(&printed)
	_, condition, found := strings.Cut(strings.TrimSuffix(printed, ";"), "WHERE")
	if err == nil && !found {
		err = fmt.Errorf("PostgreSQL prints it as %s", printed)
	}
	return strings.TrimSpace(condition), err
}

var relative = regexp.MustCompile(`(?i)\b(now|today|tomorrow|yesterday)\b`)

// checkMoments refuses a text that PostgreSQL reads as the present time: it is another one whenever
// somebody reads the file. What it takes for a text it prints as that.
func checkMoments(words []word, printed string) error {
	for _, w := range words {
		if w.kind == quotedText && relative.MatchString(w.text) &&
			!strings.Contains(printed, "'"+strings.ReplaceAll(w.text, "'", "''")+"'::") {
			return fmt.Errorf(
				"'%s' is another time whenever it is read: write the time that is meant", w.text)
		}
	}
	return nil
}

// whyNot explains the database's words where they do not explain themselves.
func whyNot(err error) string {
	text := err.Error()
	const row = "; it is asked only when its own row is written, so it must depend on nothing else"
	switch {
	case strings.Contains(text, "IMMUTABLE"):
		return row + ": not on the time, on chance, on a time zone or another setting. Compare with a " +
			"constant, or keep the outcome in a column"
	case strings.Contains(text, "subquery"):
		return row + ": not on other rows. Keep the outcome in a column of this table"
	}
	return ""
}

// rowCondition is for MariaDB and SQLite, which have no word for what depends on the row alone:
// here it is a list of functions. It returns the condition with the table before each column,
// because a query may join others.
func (m Model) rowCondition(ctx context.Context, db *bun.DB, words []word) (string, error) {
	columns, err := columnsOf(ctx, db, m.Table)
	if err != nil {
		return "", err
	}
	name := db.Dialect().Name()
	for _, w := range words {
		if err := w.check(name, columns); err != nil {
			return "", err
		}
	}
	if !isCondition(name, words, columns) {
		return "", errors.New("it compares nothing: want a condition, for example \"status <> 'draft'\"")
	}
	condition := qualified(m.Filter, words, columns)
	table := string(db.QueryGen().AppendIdent(nil, m.Table))
	rows, err := db.DB.QueryContext(ctx,
		"SELECT 1 FROM "+table+" AS t WHERE 1 = 0 AND ("+condition+")")
	if err != nil {
		return "", fmt.Errorf("%w, %s", err, whatIsOneOf)
	}
	defer func() { _ = rows.Close() }() // there are none
	return condition, rows.Err()
}

// qualified puts the table before the columns of a condition that have none.
func qualified(text string, words []word, columns []catalog.Column) string {
	var b strings.Builder
	done := 0
	for i, w := range words {
		if w.kind == anOperator || w.kind == quotedText || w.call || !isColumn(columns, w.text) ||
			i > 0 && words[i-1].text == "." || i+1 < len(words) && words[i+1].text == "." {
			continue
		}
		b.WriteString(text[done:w.at] + "t.")
		done = w.at
	}
	return b.String() + text[done:]
}

func (w word) check(name dialect.Name, columns []catalog.Column) error {
	lower := strings.ToLower(w.text)
	switch {
	case w.kind == quotedName && w.text != "t" && !isColumn(columns, w.text):
		return fmt.Errorf("%q is no column of the table: texts stand in single quotes", w.text)
	case w.kind != plainWord:
		return nil
	case lower == "select" || lower == "exists":
		return errors.New("it asks other rows, and is asked only when its own row is written: " +
			"keep the outcome in a column of this table")
	case isColumn(columns, w.text) && !w.call:
		return nil
	case changing[lower], w.call && !beforeParenthesis[lower] && !ofTheRow[lower],
		w.call && ofMariaDB[lower] && name != dialect.MySQL:
		return fmt.Errorf("%s is not known to depend on nothing but the row, as it must: the filter is "+
			"asked only when its own row is written. Known are comparisons, AND, OR, NOT, IN, LIKE, "+
			"BETWEEN, IS NULL, CASE, arithmetic, and functions such as lower, coalesce, length, abs and "+
			"json_extract", w.text)
	}
	return nil
}

func isColumn(columns []catalog.Column, name string) bool {
	for _, c := range columns {
		if strings.EqualFold(c.Name, name) {
			return true
		}
	}
	return false
}

// isCondition says that words compare something, or are one column that holds truths.
func isCondition(name dialect.Name, words []word, columns []catalog.Column) bool {
	for _, w := range words {
		if w.kind == anOperator && strings.ContainsAny(w.text, "=<>!") ||
			w.kind == plainWord && comparing[strings.ToLower(w.text)] {
			return true
		}
	}
	const most = 3 // t, a point and the column
	last := words[len(words)-1].text
	return len(words) <= most && slices.ContainsFunc(columns, func(c catalog.Column) bool {
		f, _ := familyOf(name, c)
		return strings.EqualFold(c.Name, last) && (f == truths || f == flags)
	})
}

func setOf(words string) map[string]bool {
	set := map[string]bool{}
	for word := range strings.FieldsSeq(words) {
		set[word] = true
	}
	return set
}

var (
	comparing = setOf("and or not in is like between regexp rlike glob isnull notnull xor true false")
	// changing stand without parentheses, and are not the row's.
	changing = setOf("current_timestamp current_date current_time localtime localtimestamp " +
		"current_user current_role session_user sysdate rowid oid _rowid_ " +
		"utc_date utc_time utc_timestamp")
	beforeParenthesis = setOf("and or not in is like between regexp rlike glob xor div mod case " +
		"when then else cast decimal char varchar numeric binary escape collate")
	ofTheRow = setOf("lower upper trim ltrim rtrim length octet_length coalesce ifnull nullif abs " +
		"round floor ceil ceiling mod sign substr substring instr replace concat hex json_extract " +
		"json_valid json_type json_array_length if iif char_length character_length lcase ucase mid " +
		"left right locate position concat_ws reverse lpad rpad ascii field find_in_set least greatest " +
		"truncate date year month day dayofmonth dayofweek weekday quarter hour minute second datediff " +
		"json_value json_unquote json_length json_contains json_exists isnull nvl md5 sha1 sha2 crc32")
	// ofMariaDB have another meaning on SQLite, or none: date() is the time there.
	ofMariaDB = setOf("date year month day hour minute second left right")
)
