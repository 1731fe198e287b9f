package crash_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/manifest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/tests/servers"
)

// Programs that know nothing of cqrsync write a table with triggers, and some of their connections
// are killed; relays join, are stopped past their leases, continued and killed. Every revision of
// every key arrives, none for the first time after a newer one. On PostgreSQL, where the database
// makes the messages.
func TestWhatTriggersCaptureArrivesInOrder(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	url := dbtest.PostgresURL(t)
	broker, queue := newExchange(t)
	db := dbtest.Open(t, url)
	captureParcels(t, db)
	arrived := receive(t, broker, queue)

	writers := url + "&application_name=" + queue // nobody else's connections are to be killed
	first := startRelay(t, url, broker)
	stopWriting := writeParcels(t, writers, seed)
	requireMore := func(why string) {
		t.Helper()
		have := arrived.count()
		require.Eventually(t, func() bool { return arrived.count() > have+100 }, time.Minute, time.Millisecond, why)
	}
	requireMore("nothing arrives")
	second := startRelay(t, url, broker)
	killConnections(t, db, queue, 20)
	requireMore("nothing arrives any more")
	require.NoError(t, first.Process.Signal(servers.Freeze))
	requireMore("the second relay does not take over")
	killConnections(t, db, queue, 20)
	require.NoError(t, first.Process.Signal(servers.Thaw))
	requireMore("they do not share the lanes")
	require.NoError(t, second.Process.Kill())
	require.Error(t, second.Wait())
	requireMore("the first relay does not take over again")
	stopWriting()

	want := revisionsDrawn(t, db)
	require.Eventually(t, func() bool { return arrived.count() >= len(want) }, time.Minute, 10*time.Millisecond,
		"revisions are missing")
	require.Equal(t, want, arrived.all())
	require.NoError(t, first.Process.Signal(syscall.SIGTERM))
	require.NoError(t, first.Wait())
	inversions, duplicates := arrived.inversions()
	require.Zero(t, inversions)
	t.Logf("%d messages, %d duplicates", len(want), duplicates)
}

// captureParcels makes the table and its triggers.
func captureParcels(t *testing.T, db *bun.DB) {
	t.Helper()
	_, err := db.DB.ExecContext(t.Context(), "CREATE TABLE parcels (id bigint PRIMARY KEY, status text, weight int)")
	require.NoError(t, err)
	// The topic is that to which the queue is bound.
	m, err := manifest.Parse([]byte("models: {order: {table: parcels, every_revision: true}}"))
	require.NoError(t, err)
	box, err := m.Box(t.Context(), db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	triggers, err := m.Capture(t.Context(), db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, triggers.Install(t.Context()))
}

// writeParcels lets several programs write until stop is called.
func writeParcels(t *testing.T, url string, seed uint64) (stop func()) {
	t.Helper()
	db := dbtest.Open(t, url)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var writing sync.WaitGroup
	for w := range 3 {
		writing.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(w)))
			pause := time.NewTicker(10 * time.Millisecond)
			defer pause.Stop()
			for ctx.Err() == nil {
				if err := writeOnce(context.WithoutCancel(ctx), db, parcelStatements(random)); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); writing.Wait() })
	t.Cleanup(stop)
	return stop
}

// parcelStatements are those of one transaction.
func parcelStatements(random *rand.Rand) (all []string) {
	id := func() int { return 1 + random.IntN(12) }
	for range 1 + random.IntN(3) {
		a, b := id(), id()
		all = append(all, [][]string{
			{fmt.Sprintf("UPDATE parcels SET weight = weight + 1 WHERE id BETWEEN %d AND %d", a, a+2)},
			{fmt.Sprintf("INSERT INTO parcels SELECT n, 'new', 0 FROM generate_series(%d, %d) AS n"+
				" ON CONFLICT (id) DO UPDATE SET weight = parcels.weight + 1", a, a+1)},
			{fmt.Sprintf("DELETE FROM parcels WHERE id = %d", a)},
			{"SAVEPOINT s", "UPDATE parcels SET status = 'oops'", "ROLLBACK TO s",
				fmt.Sprintf("UPDATE parcels SET status = 'x' WHERE id IN (%d, %d)", a, b)},
			{fmt.Sprintf("UPDATE parcels SET id = %d WHERE id = %d AND NOT EXISTS (SELECT FROM parcels WHERE id = %d)", a, b, a)},
		}[random.IntN(5)]...)
	}
	return all
}

// writeOnce is one transaction of a program. What the database or a kill rolls back is no failure.
func writeOnce(ctx context.Context, db *bun.DB, statements []string) error {
	err := func() error {
		tx, err := db.DB.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		for _, statement := range statements {
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return errors.Join(err, tx.Rollback())
			}
		}
		return tx.Commit()
	}()
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "40P01", "40001", "23505", "57P01": // deadlock, serialization, a key that another one took, killed
			return nil
		}
		return err
	}
	return nil // the connection is gone: whether the commit was, the ledger says
}

// killConnections kills up to n connections of the writers while they run.
func killConnections(t *testing.T, db *bun.DB, name string, n int) {
	t.Helper()
	killed := 0
	require.Eventually(t, func() bool {
		var now int
		require.NoError(t, db.NewRaw(`SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
			WHERE application_name = ? AND state <> 'idle' ORDER BY random() LIMIT 1) AS one`, name).
			Scan(t.Context(), &now))
		killed += now
		return killed >= n
	}, time.Minute, time.Millisecond, "the writers do not write")
}

// revisionsDrawn are all revisions of all keys, by the ledger.
func revisionsDrawn(t *testing.T, db *bun.DB) map[arrival]bool {
	t.Helper()
	var rows []struct {
		Key      string
		Revision int64
	}
	require.NoError(t, db.NewRaw("SELECT key, revision FROM outbox_revisions").Scan(t.Context(), &rows))
	all := map[arrival]bool{}
	for _, row := range rows {
		_, err := strconv.Atoi(row.Key)
		require.NoError(t, err)
		for revision := range row.Revision + 1 {
			all[arrival{row.Key, revision}] = true
		}
	}
	require.NotEmpty(t, all)
	return all
}
