package answers_test

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/operate"
)

// uuidForms are the columns that keep a uuid, on each database: the forms are text, hex and bytes.
var uuidForms = map[string][]string{
	"postgres": {"uuid", "char(32)", "char(36)", "bytea"},
	"mariadb":  {"uuid", "char(32)", "char(36)", "binary(16)"},
	"sqlite":   {"uuid", "char(32)", "text", "blob"},
}

// uuidLiteral is a uuid as SQL for a column of a type.
func uuidLiteral(kind, ddl string, u uuid.UUID) string {
	digits := hex.EncodeToString(u[:])
	switch ddl {
	case "char(32)":
		return "'" + digits + "'"
	case "bytea":
		return `'\x` + digits + `'`
	case "binary(16)", "blob":
		return "X'" + digits + "'"
	default:
		return "'" + u.String() + "'"
	}
}

// uuidTables are a master's column, a replica's, and the table that both are called.
type uuidTables struct{ table, master, copies string }

func TestAUUIDIsOneHoweverItsColumnSpellsIt(t *testing.T) {
	ids := []uuid.UUID{
		uuid.MustParse("5f0c6f5e-0000-4000-8000-0123456789ab"), uuid.MustParse("5f0c6f5e-0000-4000-8000-0123456789ac"),
		uuid.MustParse("ffffffff-ffff-4fff-bfff-ffffffffffff"),
	}
	eachPair(t, func(t *testing.T, master, copies string) {
		var tables []uuidTables
		var onMaster, onCopies, models []string
		for i, there := range uuidForms[master] {
			for j, here := range uuidForms[copies] {
				u := uuidTables{fmt.Sprintf("t%d%d", i, j), there, here}
				const create = "CREATE TABLE %s (id %s NOT NULL PRIMARY KEY, other %s, n int)"
				tables = append(tables, u)
				onMaster = append(onMaster, fmt.Sprintf(create, u.table, there, there))
				onCopies = append(onCopies, fmt.Sprintf(create, u.table, here, here))
				models = append(models, u.table+": {table: "+u.table+", types: {id: uuid, other: uuid}}")
			}
		}
		p := databases(t, master, copies, onMaster, onCopies)
		p.start(plain(t, p, strings.Join(models, ", ")))
		for _, u := range tables {
			for n, id := range ids {
				other := "NULL"
				if n > 0 {
					other = uuidLiteral(master, u.master, ids[n-1])
				}
				p.plainExec(p.master, fmt.Sprintf("INSERT INTO %s VALUES (%s, %s, %d)", u.table, uuidLiteral(master, u.master, id), other, n))
			}
			p.sync(u.table)
		}
		for _, u := range tables {
			p.becomesEqual(u.table)
			p.requireUUIDs(u, ids)
			p.repairsUUIDs(u, ids)
		}
	})
}

// plainExec runs a statement that has question marks and backslashes of its own.
func (p *pipeline) plainExec(db *bun.DB, statement string) {
	p.Helper()
	_, err := db.DB.ExecContext(p.Context(), statement)
	require.NoError(p, err, statement)
}

// requireUUIDs holds each row of the replica against what its columns should have.
func (p *pipeline) requireUUIDs(u uuidTables, ids []uuid.UUID) {
	p.Helper()
	for n, id := range ids {
		other := "other IS NULL"
		if n > 0 {
			other = "other = " + uuidLiteral(p.copiesKind, u.copies, ids[n-1])
		}
		var count int
		require.NoError(p, p.copies.DB.QueryRowContext(p.Context(), fmt.Sprintf("SELECT count(*) FROM %s WHERE id = %s AND %s AND n = %d",
			u.table, uuidLiteral(p.copiesKind, u.copies, id), other, n)).Scan(&count))
		require.Equal(p, 1, count, "%s to %s: row %d: %v", u.master, u.copies, n, p.reasons())
	}
	var keys []string
	require.NoError(p, p.copies.NewRaw(`SELECT ? FROM replica_revisions WHERE model = ? AND NOT deleted ORDER BY 1`,
		bun.Ident("key"), u.table).Scan(p.Context(), &keys))
	require.Equal(p, []string{ids[0].String(), ids[1].String(), ids[2].String()}, keys, "one spelling in the ledger")
}

// repairsUUIDs damages the replica: a row that is gone, one that is changed, one too many.
func (p *pipeline) repairsUUIDs(u uuidTables, ids []uuid.UUID) {
	p.Helper()
	literal := func(id uuid.UUID) string { return uuidLiteral(p.copiesKind, u.copies, id) }
	p.plainExec(p.copies, "DELETE FROM "+u.table+" WHERE id = "+literal(ids[0]))
	p.plainExec(p.copies, "UPDATE "+u.table+" SET other = "+literal(ids[2])+" WHERE id = "+literal(ids[1]))
	p.plainExec(p.copies, "INSERT INTO "+u.table+" VALUES ("+literal(uuid.MustParse("00000000-0000-4000-8000-000000000001"))+", NULL, 9)")
	result := p.diff(u.table, true)
	require.EqualValues(p, 2, result.Differing, "%s to %s", u.master, u.copies)
	require.EqualValues(p, 1, result.Deleted, "%s to %s", u.master, u.copies)
	p.becomesEqual(u.table)
	p.requireUUIDs(u, ids)

	filter, err := operate.ParseFilter(`{"id": "` + strings.ToUpper(ids[1].String()) + `"}`)
	require.NoError(p, err)
	var dump bytes.Buffer
	n, err := operate.Dump(p.Context(), p.box, u.table, &dump, operate.DumpOptions{Options: operate.Options{Filter: filter}})
	require.NoError(p, err)
	require.EqualValues(p, 1, n)
	require.Contains(p, dump.String(), `"id":"`+ids[1].String()+`","other":"`+ids[0].String()+`"`)
	p.plainExec(p.copies, "DELETE FROM "+u.table+" WHERE id = "+literal(ids[1]))
	loaded, err := operate.Load(p.Context(), p.rep, &dump, operate.LoadOptions{})
	require.NoError(p, err)
	require.EqualValues(p, 1, loaded.Applied)
	p.becomesEqual(u.table)
}
