package database_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// readOnlyServers are the databases that have servers, each with what makes a session like one of a demoted primary.
func readOnlyServers() map[string]struct {
	newURL func(testing.TB) string
	demote string
} {
	return map[string]struct {
		newURL func(testing.TB) string
		demote string
	}{
		"postgres": {dbtest.PostgresURL, "SET default_transaction_read_only = on"},
		"mariadb":  {dbtest.MariaDBURL, "SET SESSION tx_read_only = 1"},
	}
}

// A failover leaves connections with a server that takes no writes, and none of them fails in any other way.
func TestAReadOnlyServerIsLeftAfterTheFirstError(t *testing.T) {
	for name, server := range readOnlyServers() {
		t.Run(name, func(t *testing.T) {
			db := dbtest.Open(t, server.newURL(t))
			db.SetMaxOpenConns(1)
			exec := func(statement string) {
				t.Helper()
				_, err := db.ExecContext(t.Context(), statement)
				require.NoError(t, err)
			}
			insert := func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.ExecContext(ctx, "INSERT INTO t VALUES (1)")
				return err
			}
			exec("CREATE TABLE t (x integer)")
			exec(server.demote)
			require.Error(t, db.RunInTx(t.Context(), nil, insert), "nobody knows before")
			require.NoError(t, db.RunInTx(t.Context(), nil, insert), "the pool has a new connection")

			exec(server.demote)
			_, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (1)")
			if err != nil { // MariaDB's is tried again by database/sql: it did nothing
				_, err = db.ExecContext(t.Context(), "INSERT INTO t VALUES (1)")
			}
			require.NoError(t, err)
			var count int
			require.NoError(t, db.NewRaw("SELECT count(*) FROM t").Scan(t.Context(), &count))
			require.Equal(t, 2, count)
		})
	}
}

func TestAReadOnlyServerIsConnectedToOnRequestOnly(t *testing.T) {
	rawURL := dbtest.PostgresURL(t) + "&default_transaction_read_only=on"
	db := dbtest.Open(t, rawURL)
	err := db.PingContext(t.Context())
	require.ErrorContains(t, err, "takes no writes")
	require.ErrorContains(t, err, "target_session_attrs=any")
	require.NoError(t, dbtest.Open(t, rawURL+"&target_session_attrs=any").PingContext(t.Context()))
	t.Setenv("PGTARGETSESSIONATTRS", "any")
	require.NoError(t, dbtest.Open(t, rawURL).PingContext(t.Context()))
}
