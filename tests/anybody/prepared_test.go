package anybody_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/servers"
)

// Two-phase commit needs max_prepared_transactions, which few servers have and the test's own has.
const (
	parcels     = `CREATE TABLE parcels (id bigint PRIMARY KEY, status text NOT NULL)`
	parcelsYAML = `models: {parcel: {table: parcels}}`
	parcelsCopy = `CREATE TABLE parcels (id integer PRIMARY KEY, status text)`
)

func newParcels(t *testing.T, server *servers.Postgres) *world {
	t.Helper()
	execute(t, server.URL("postgres"), parcels)
	return newWorld(t, server.URL("postgres"), parcelsYAML, parcelsCopy)
}

// in runs statements on a connection of their own, and returns the first error.
func (w *world) in(statements ...string) error {
	conn, err := w.master.DB.Conn(w.Context())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // goes back to the pool
	for _, statement := range statements {
		if _, err := conn.ExecContext(w.Context(), statement); err != nil {
			_, _ = conn.ExecContext(context.WithoutCancel(w.Context()), "ROLLBACK") // none may be left open
			return fmt.Errorf("%s: %w", statement, err)
		}
	}
	return nil
}

// prepare leaves a prepared transaction of a name.
func (w *world) prepare(name string, statements ...string) {
	w.Helper()
	all := append([]string{"BEGIN"}, statements...)
	require.NoError(w, w.in(append(all, "PREPARE TRANSACTION '"+name+"'")...))
}

// take is what the outbox holds, in the order of its identities; it is empty then.
func (w *world) take() []string {
	w.Helper()
	var lines []string
	require.NoError(w, w.master.NewRaw(`WITH taken AS (DELETE FROM outbox_messages RETURNING *)
		SELECT concat_ws(' ', key, revision, signal, data ->> 'status') FROM taken ORDER BY id`).Scan(w.Context(), &lines))
	var left int
	require.NoError(w, w.master.NewRaw("SELECT count(*) FROM outbox_marks").Scan(w.Context(), &left))
	require.Zero(w, left, "marks that nobody flushed")
	return lines
}

// A transaction makes its messages when it is prepared, and they are seen when it commits: in the
// order of the revisions, because it holds its locks until then, also through a crash of the server.
func TestAPreparedTransactionIsCaptured(t *testing.T) {
	server := servers.StartPostgres(t)
	w := newParcels(t, server)
	w.prepare("a", "INSERT INTO parcels VALUES (1, 'a')", "UPDATE parcels SET status = 'b'")
	require.Empty(t, w.take())
	require.NoError(t, w.in("INSERT INTO parcels VALUES (2, 'c')", "COMMIT PREPARED 'a'"))
	require.ElementsMatch(t, []string{"1 0 SAVE b", "2 0 SAVE c"}, w.take())

	w.prepare("b", "UPDATE parcels SET status = 'd'", "DELETE FROM parcels WHERE id = 2")
	require.NoError(t, w.in("ROLLBACK PREPARED 'b'"))
	require.NoError(t, w.in("UPDATE parcels SET status = 'e' WHERE id = 1"))
	require.Equal(t, []string{"1 1 SAVE e"}, w.take())

	w.prepare("c", "UPDATE parcels SET status = 'f' WHERE id = 1", "SAVEPOINT s", "DELETE FROM parcels",
		"ROLLBACK TO s", "UPDATE parcels SET id = 3 WHERE id = 2")
	require.NoError(t, server.Stop("immediate"))
	require.NoError(t, server.Start())
	require.NoError(t, w.master.Close())
	w = &world{T: t, master: openMaster(t, server)}
	require.ErrorContains(t, w.in("BEGIN", "SET LOCAL lock_timeout = 100",
		"UPDATE parcels SET status = 'g' WHERE id = 1"), "lock timeout")
	require.Empty(t, w.take())
	require.NoError(t, w.in("COMMIT PREPARED 'c'", "UPDATE parcels SET status = 'g' WHERE id = 1"))
	require.Equal(t, []string{"1 2 SAVE f", "2 1 DELETE", "3 0 SAVE c", "1 3 SAVE g"}, w.take())
}

// Relays that read on while a transaction is prepared send what it wrote when it commits.
func TestARelayDoesNotPassOverAPreparedTransaction(t *testing.T) {
	server := servers.StartPostgres(t)
	w := newParcels(t, server)
	w.follow()
	w.prepare("early", "INSERT INTO parcels SELECT n, 'early' FROM generate_series(1, 200) AS n")
	w.prepare("never", "INSERT INTO parcels SELECT n, 'never' FROM generate_series(201, 400) AS n")
	for round := range 5 { // in all lanes, with later identities
		first := 1000 * (round + 1)
		require.NoError(t, w.in(fmt.Sprintf(
			"INSERT INTO parcels SELECT n, 'late' FROM generate_series(%d, %d) AS n", first, first+199)))
		require.Eventually(t, func() bool { return w.copied("late") == 200*(round+1) }, time.Minute, 20*time.Millisecond)
	}
	require.Zero(t, w.copied("early"))
	require.NoError(t, w.in("COMMIT PREPARED 'early'", "ROLLBACK PREPARED 'never'"))
	require.Eventually(t, func() bool { return w.copied("early") == 200 }, time.Minute, 20*time.Millisecond)
	require.Zero(t, w.copied("never"))
	w.requireEqual()
}

// copied counts the rows of a status at the replica.
func (w *world) copied(status string) (n int) {
	w.Helper()
	require.NoError(w, w.copies.NewRaw("SELECT count(*) FROM parcels WHERE status = ?", status).Scan(w.Context(), &n))
	return n
}
