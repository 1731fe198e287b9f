package anybody_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/tests/servers"
)

func openMaster(t *testing.T, server *servers.Postgres) *bun.DB {
	t.Helper()
	return dbtest.Open(t, server.URL("postgres"))
}

// execute runs a script.
func execute(t *testing.T, url, script string) {
	t.Helper()
	_, err := dbtest.Open(t, url).DB.ExecContext(t.Context(), script)
	require.NoError(t, err, script)
}

// awaits polls until the outbox has handed out all these messages, in any order.
func (w *world) awaits(want ...string) {
	w.Helper()
	var got []string
	require.Eventually(w, func() bool {
		got = append(got, w.take()...)
		return len(got) >= len(want)
	}, time.Minute, 20*time.Millisecond)
	require.ElementsMatch(w, want, got)
}

// What a subscription of PostgreSQL's logical replication copies and applies is captured as any
// other write, one message per key and transaction, although it runs no triggers of statements.
func TestASubscriptionIsCaptured(t *testing.T) {
	logical := []string{"wal_level=logical"}
	source, target := servers.StartPostgres(t, logical...), servers.StartPostgres(t, logical...)
	execute(t, source.URL("postgres"), parcels+`;
		INSERT INTO parcels VALUES (1, 'a'), (2, 'b');
		CREATE PUBLICATION all_parcels FOR TABLE parcels`)
	origin := &world{T: t, master: openMaster(t, source)}
	w := newParcels(t, target)
	require.NoError(t, w.in(fmt.Sprintf(`CREATE SUBSCRIPTION here
		CONNECTION 'host=127.0.0.1 port=%d user=postgres dbname=postgres'
		PUBLICATION all_parcels WITH (two_phase = true)`, source.Port)))
	w.awaits("1 0 SAVE a", "2 0 SAVE b") // the first copy

	require.NoError(t, origin.in("BEGIN", "UPDATE parcels SET status = 'c'", "UPDATE parcels SET status = 'd' WHERE id = 1",
		"INSERT INTO parcels VALUES (3, 'e')", "DELETE FROM parcels WHERE id = 2", "COMMIT"))
	w.awaits("1 1 SAVE d", "2 1 DELETE", "3 0 SAVE e")
	require.NoError(t, origin.in("UPDATE parcels SET id = 4 WHERE id = 3"))
	w.awaits("3 1 DELETE", "4 0 SAVE e")

	origin.prepare("p", "UPDATE parcels SET status = 'f' WHERE id = 1")
	require.Eventually(t, func() bool {
		var prepared int
		require.NoError(t, w.master.NewRaw("SELECT count(*) FROM pg_prepared_xacts").Scan(t.Context(), &prepared))
		return prepared == 1
	}, time.Minute, 20*time.Millisecond)
	require.Empty(t, w.take())
	require.NoError(t, origin.in("COMMIT PREPARED 'p'"))
	w.awaits("1 2 SAVE f")

	// The refusal of TRUNCATE is loud: the subscription stands until somebody decides.
	require.NoError(t, origin.in("TRUNCATE parcels", "INSERT INTO parcels VALUES (9, 'z')"))
	require.Eventually(t, func() bool {
		var errors int
		require.NoError(t, w.master.NewRaw("SELECT coalesce(sum(apply_error_count), 0) FROM pg_stat_subscription_stats").
			Scan(t.Context(), &errors))
		return errors > 0
	}, time.Minute, 50*time.Millisecond)
	require.Empty(t, w.take())
}
