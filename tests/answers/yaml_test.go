package answers_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
)

// printed is how a database prints a column.
func printed(kind, ddl, column string) string {
	isBytes := strings.Contains(ddl, "blob") || strings.Contains(ddl, "binary") || strings.Contains(ddl, "bytea") ||
		ddl == "digest"
	switch {
	case isBytes && kind == "postgres":
		return "encode(" + column + ", 'hex')"
	case isBytes:
		return "CASE WHEN " + column + " IS NOT NULL THEN lower(hex(" + column + ")) END"
	case kind == "postgres" && strings.HasPrefix(ddl, "char("):
		return "CASE WHEN " + column + " IS NOT NULL THEN format('%s', " + column + ") END" // a cast to text would take the spaces away
	case kind == "postgres" && ddl == "inet":
		return "abbrev(" + column + ")"
	case kind == "postgres":
		return column + "::text"
	case kind == "mariadb" && strings.HasPrefix(ddl, "bit"):
		return "CAST(" + column + "+0 AS char)"
	case kind == "mariadb":
		return "CAST(" + column + " AS char)"
	default:
		return "CAST(" + column + " AS text)"
	}
}

// print is a column of a table, by the id of its row; NULL is printed as nil.
func (p *pipeline) print(db *bun.DB, kind, table, column, ddl string) map[int]string {
	p.Helper()
	var rows []struct {
		ID   int
		Text *string
	}
	err := db.NewRaw("SELECT id, ? AS text FROM ?", bun.Safe(printed(kind, ddl, column)), bun.Ident(table)).
		Scan(p.Context(), &rows)
	require.NoError(p, err, "%s %s", kind, ddl)
	texts := map[int]string{}
	for _, row := range rows {
		texts[row.ID] = "nil"
		if row.Text != nil {
			texts[row.ID] = "=" + *row.Text
		}
	}
	return texts
}

// rowsOf is how many rows the values of so many columns need, one for a change of each and one of NULLs.
func rowsOf(columns []columnType) int { return max(len(columns)+1, 8) }

// insertAll makes rows of every value, and a last one of NULLs.
func (p *pipeline) insertAll(columns []columnType) {
	p.Helper()
	rows := rowsOf(columns)
	for id := 1; id <= rows; id++ {
		values := []string{fmt.Sprint(id)}
		for _, c := range columns {
			value := c.values[id%len(c.values)]
			if id == rows {
				value = "NULL"
			}
			values = append(values, value)
		}
		_, err := p.master.DB.ExecContext(p.Context(), "INSERT INTO t VALUES ("+strings.Join(values, ", ")+")")
		require.NoError(p, err, "%v", values)
	}
}

// tables are the statements for a table with a column for each type.
func tables(table string, columns []columnType, ddl func(columnType) string, before []string) []string {
	parts := []string{"id bigint PRIMARY KEY"}
	for i, c := range columns {
		parts = append(parts, fmt.Sprintf("c%d %s", i, ddl(c)))
	}
	return append(before, "CREATE TABLE "+table+" ("+strings.Join(parts, ", ")+")")
}

func plain(t *testing.T, p *pipeline, models string) (*outbox.Box, *replica.Replica) {
	t.Helper()
	m, err := manifest.Parse([]byte("queue: q\nmodels: {" + models + "}"))
	require.NoError(t, err)
	box, err := m.Box(t.Context(), p.master, outbox.Config{})
	require.NoError(t, err)
	rep, err := m.Replica(t.Context(), p.copies, replica.Config{Logger: quiet})
	require.NoError(t, err)
	return box, rep
}

func TestEveryTypeOfAPlainTableHasItsAnswer(t *testing.T) {
	eachPair(t, func(t *testing.T, master, copies string) {
		var columns, refusals []columnType
		for _, c := range answers[master] {
			require.NotEmpty(t, c.on[copies].ddl, c.ddl)
			if c.on[copies].refused == "" {
				columns = append(columns, c)
			} else {
				refusals = append(refusals, c)
			}
		}
		replicaDDL := func(c columnType) string { return c.on[copies].ddl }
		onMaster := tables("t", columns, func(c columnType) string { return c.ddl }, setup[master])
		onCopies := tables("t", columns, replicaDDL, setup[copies])
		models := []string{"t: {table: t}"}
		for i, c := range refusals {
			name := fmt.Sprintf("r%d", i)
			onMaster = append(onMaster, fmt.Sprintf("CREATE TABLE %s (id bigint PRIMARY KEY, c %s)", name, c.ddl))
			onCopies = append(onCopies, fmt.Sprintf("CREATE TABLE %s (id bigint PRIMARY KEY, c %s)", name, replicaDDL(c)))
			models = append(models, name+": {table: "+name+"}")
		}
		p := databases(t, master, copies, onMaster, onCopies)
		p.insertAll(columns)
		p.start(plain(t, p, strings.Join(models, ", ")))
		p.sync("t")
		p.becomesEqual("t", func() { p.requireEqual(columns) })
		p.requireEqual(columns)
		p.repairsEveryColumn(columns)
		p.refuses(refusals)
	})
}

// requireEqual holds what the replica prints against the answers.
func (p *pipeline) requireEqual(columns []columnType) {
	p.Helper()
	for i, c := range columns {
		name, answer := fmt.Sprintf("c%d", i), c.on[p.copiesKind]
		there := p.print(p.master, p.kind, "t", name, c.ddl)
		here := p.print(p.copies, p.copiesKind, "t", name, answer.ddl)
		for id, text := range there {
			if answer.prints != nil && text != "nil" {
				text = "=" + answer.prints[id%len(c.values)]
			}
			if here[id] != text {
				p.Errorf("%s as %s, row %d: the replica prints %q, want %q", c.ddl, answer.ddl, id, here[id], text)
				break
			}
		}
		require.Len(p, here, len(there))
	}
}

// repairsEveryColumn changes a value of each column, in a row of its own, a key in two more, and lets
// diff find and mend them.
func (p *pipeline) repairsEveryColumn(columns []columnType) {
	p.Helper()
	changed := map[int]string{}
	for i, c := range columns {
		name, id := fmt.Sprintf("c%d", i), i+1
		texts := p.print(p.copies, p.copiesKind, "t", name, c.on[p.copiesKind].ddl)
		other := rowsOf(columns) // NULL
		for candidate, text := range texts {
			if text != "nil" && text != texts[id] {
				other = candidate
			}
		}
		p.exec(p.copies, map[bool]string{
			true:  "UPDATE t JOIN t AS o ON o.id = ? SET t.? = o.? WHERE t.id = ?",
			false: "UPDATE t SET ?1 = (SELECT ?1 FROM t WHERE id = ?0) WHERE id = ?3",
		}[p.copiesKind == "mariadb"], other, bun.Ident(name), bun.Ident(name), id)
		changed[id] = c.ddl
	}
	p.exec(p.copies, "INSERT INTO t (id) VALUES (1000)")
	p.exec(p.copies, "DELETE FROM t WHERE id = ?", rowsOf(columns))
	result := p.diff("t", true)
	require.EqualValues(p, len(changed)+1, result.Differing, "one change per column, and a row that is gone")
	require.EqualValues(p, 1, result.Deleted)
	p.becomesEqual("t")
	p.requireEqual(columns)
}

// refuses sends what no column of the replica's keeps, and wants to be told.
func (p *pipeline) refuses(columns []columnType) {
	p.Helper()
	for i, c := range columns {
		for n, value := range c.values {
			_, err := p.master.DB.ExecContext(p.Context(), fmt.Sprintf("INSERT INTO r%d VALUES (%d, %s)", i, n, value))
			require.NoError(p, err, value)
		}
		p.sync(fmt.Sprintf("r%d", i))
	}
	for i, c := range columns {
		model, want := fmt.Sprintf("r%d", i), c.on[p.copiesKind]
		var errs []string
		p.eventually(func() bool {
			errs = nil
			err := p.copies.NewRaw("SELECT error FROM replica_dead_letters WHERE model = ?", model).Scan(p.Context(), &errs)
			require.NoError(p, err)
			return len(errs) == len(c.values)
		}, func() string { return fmt.Sprintf("%s as %s: dead letters %q, %v", c.ddl, want.ddl, errs, p.reasons()) })
		for _, err := range errs {
			require.Contains(p, err, want.refused, "%s as %s", c.ddl, want.ddl)
		}
		count, err := p.copies.NewSelect().Table(model).Count(p.Context())
		require.NoError(p, err)
		require.Zero(p, count, "%s as %s", c.ddl, want.ddl)
	}
}

func TestTypesThatAreNotKnownAreRefusedByName(t *testing.T) {
	for _, kind := range kinds {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			db := dbtest.Open(t, dbtest.Kinds()[kind](t))
			for i, ddl := range unknown[kind] {
				table := fmt.Sprintf("t%d", i)
				_, err := db.ExecContext(t.Context(), "CREATE TABLE ? (id bigint PRIMARY KEY, c ?)", bun.Ident(table), bun.Safe(ddl))
				require.NoError(t, err)
				m, err := manifest.Parse([]byte("queue: q\nmodels: {m: {table: " + table + "}}"))
				require.NoError(t, err)
				_, err = m.Box(t.Context(), db, outbox.Config{})
				require.ErrorContains(t, err, `column "c" of table `+table)
				require.ErrorContains(t, err, "its type "+ddl)
				require.ErrorContains(t, err, "is not known here")
				_, err = m.Replica(t.Context(), db, replica.Config{})
				require.ErrorContains(t, err, "is not known here")
				m, err = manifest.Parse([]byte("models: {m: {table: " + table + ", columns: id}}"))
				require.NoError(t, err)
				_, err = m.Box(t.Context(), db, outbox.Config{})
				require.NoError(t, err, "a column that is left out does not matter")
			}
		})
	}
}
