package dbtest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
)

// outboxTables are those that a backup of the outbox has.
var outboxTables = []string{
	"outbox_messages", "outbox_lanes", "outbox_relays", "outbox_retries", "outbox_revisions",
	"outbox_dead_letters", "outbox_incarnation",
}

// BackUpOutbox copies the outbox and returns a function that makes the database go back
// to that, as a standby does that was behind, or a restored dump: identities are drawn
// again, and rows lie where others lay.
func BackUpOutbox(t testing.TB, db *bun.DB) (restore func()) {
	t.Helper()
	run := func(statement string) {
		t.Helper()
		_, err := db.ExecContext(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	for _, table := range outboxTables {
		run(fmt.Sprintf("CREATE TABLE backup_%[1]s AS SELECT * FROM %[1]s", table))
	}
	var last int64
	require.NoError(t,
		db.NewRaw("SELECT coalesce(max(id), 0) FROM outbox_messages").Scan(t.Context(), &last))
	return func() {
		t.Helper()
		restoring, err := db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { _ = restoring.Rollback() }() // it is committed below
		for _, table := range outboxTables {
			for _, statement := range restoreStatements(db, table, last) {
				_, err := restoring.ExecContext(t.Context(), statement)
				require.NoError(t, err, statement)
			}
		}
		require.NoError(t, restoring.Commit())
	}
}

func restoreStatements(db *bun.DB, table string, last int64) []string {
	messages := table == "outbox_messages"
	switch db.Dialect().Name() {
	case dialect.PG:
		statements := []string{"TRUNCATE " + table}
		overriding := ""
		if messages {
			overriding = "OVERRIDING SYSTEM VALUE"
			statements = append(statements,
				fmt.Sprintf("ALTER TABLE %s ALTER COLUMN id RESTART WITH %d", table, last+1))
		}
		return append(statements, fmt.Sprintf(
			"INSERT INTO %[1]s %[2]s SELECT * FROM backup_%[1]s", table, overriding))
	case dialect.MySQL:
		statements := []string{"TRUNCATE TABLE " + table}
		if messages {
			statements = append(statements, fmt.Sprintf("ALTER TABLE %s AUTO_INCREMENT = %d", table, last+1))
		}
		return append(statements, fmt.Sprintf("INSERT INTO %[1]s SELECT * FROM backup_%[1]s", table))
	default:
		statements := []string{"DELETE FROM " + table}
		if messages {
			statements = append(statements, fmt.Sprintf(
				"UPDATE sqlite_sequence SET seq = %d WHERE name = '%s'", last, table))
		}
		return append(statements, fmt.Sprintf("INSERT INTO %[1]s SELECT * FROM backup_%[1]s", table))
	}
}
