package answers_test

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// keyType is a column that a row is known by, on each database, with values of it as SQL.
type keyType struct {
	ddl    map[string]string
	values []string
}

func everywhere(ddl string) map[string]string {
	return map[string]string{"postgres": ddl, "mariadb": ddl, "sqlite": ddl}
}

var keyTypes = map[string]keyType{
	"bigint": {everywhere("bigint"), []string{"-9223372036854775808", "0", "1", "9007199254740993"}},
	"text": {
		map[string]string{"postgres": "text", "mariadb": "varchar(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "sqlite": "text"},
		[]string{"'abc'", "'ABC'", "'x'", "'x '", "'e'", "'é'", "'it''s \"[1,2]\"'", "'007'", "'7'"},
	},
	"uuid":    {everywhere("uuid"), []string{"'5f0c6f5e-0000-4000-8000-0123456789ab'", "'5f0c6f5e-0000-4000-8000-0123456789ac'"}},
	"decimal": {map[string]string{"postgres": "numeric(20,2)", "mariadb": "decimal(20,2)", "sqlite": "text"}, []string{"'1.50'", "'-7.00'"}},
	"date":    {map[string]string{"postgres": "date", "mariadb": "date", "sqlite": "text"}, []string{"'2026-11-30'", "'2026-12-01'"}},
	"two": {
		map[string]string{
			"postgres": "text, n integer", "sqlite": "text, n integer",
			"mariadb": "varchar(50) CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin, n integer",
		},
		[]string{"'a', 1", "'A', 1", "'a', 2", "'a,1', 2"},
	},
}

func TestEveryTypeOfAKeyHasItsAnswer(t *testing.T) {
	eachPair(t, func(t *testing.T, master, copies string) {
		var onMaster, onCopies, models []string
		for name, k := range keyTypes {
			key := "k"
			if name == "two" {
				key = "k, n"
			}
			create := "CREATE TABLE t_%s (k %s, v varchar(20), PRIMARY KEY (%s))"
			onMaster = append(onMaster, fmt.Sprintf(create, name, k.ddl[master], key))
			onCopies = append(onCopies, fmt.Sprintf(create, name, k.ddl[copies], key))
			models = append(models, name+": {table: t_"+name+"}")
		}
		p := databases(t, master, copies, onMaster, onCopies)
		p.start(plain(t, p, strings.Join(models, ", ")))
		for name, k := range keyTypes {
			table := "t_" + name
			for i, value := range k.values {
				_, err := p.master.DB.ExecContext(t.Context(), fmt.Sprintf("INSERT INTO %s VALUES (%s, 'v%d')", table, value, i))
				require.NoError(t, err)
			}
			p.sync(name)
			p.becomesEqual(name)
			p.requireRows(table, k.values, nil)

			// A row that is gone, one too many, one that is changed: found, repaired, and no neighbour is touched.
			gone, extra := k.values[0], k.values[1]
			p.where(table, "DELETE FROM %s WHERE %s", gone, true)
			p.where(table, "DELETE FROM %s WHERE %s", extra, false)
			p.where(table, "UPDATE %s SET v = 'drift' WHERE %s", k.values[len(k.values)-1], true)
			result := p.diff(name, true)
			changed := int64(2)
			if len(k.values) == 2 {
				changed-- // the changed one is the one too many
			}
			require.Equal(t, changed, result.Differing, name)
			require.EqualValues(t, 1, result.Deleted, name)
			p.becomesEqual(name)
			p.requireRows(table, k.values, []string{extra})
		}
	})
}

// where runs a statement for the row of a key, on one of the sides.
func (p *pipeline) where(table, statement, key string, onCopies bool) {
	p.Helper()
	condition := "k = " + key
	if table == "t_two" {
		condition = "(k, n) = (" + key + ")"
	}
	db := p.master
	if onCopies {
		db = p.copies
	}
	result, err := db.DB.ExecContext(p.Context(), fmt.Sprintf(statement, table, condition))
	require.NoError(p, err)
	n, err := result.RowsAffected()
	require.NoError(p, err)
	require.EqualValues(p, 1, n, "%s of %s", key, table)
}

// requireRows holds the rows of the replica against those of the master.
func (p *pipeline) requireRows(table string, keys, without []string) {
	p.Helper()
	read := func(side string) (rows []string) {
		db := p.master
		if side == "copies" {
			db = p.copies
		}
		columns := "k"
		if table == "t_two" {
			columns = "k, n"
		}
		var found []map[string]any
		require.NoError(p, db.NewRaw("SELECT "+columns+", v FROM "+table+" ORDER BY v").Scan(p.Context(), &found))
		for _, row := range found {
			rows = append(rows, fmt.Sprint(printable(row["k"]), printable(row["n"]), printable(row["v"])))
		}
		return rows
	}
	there, here := read("master"), read("copies")
	require.Len(p, there, len(keys)-len(without))
	require.Equal(p, there, here, table)
}

// printable is a value in one spelling, whatever the driver makes of it.
func printable(v any) string {
	switch v := v.(type) {
	case []byte:
		return string(v)
	case sql.NullString:
		return v.String
	case time.Time:
		return v.Format(time.DateOnly)
	default:
		return fmt.Sprint(v)
	}
}
