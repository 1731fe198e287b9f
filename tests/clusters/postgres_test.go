package clusters

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/tests/servers"
)

// startPair starts a primary and its standby, with a database of the replica's beside the master's.
func startPair(t *testing.T) (primary, standby *servers.Postgres) {
	t.Helper()
	primary = servers.StartPostgres(t)
	db, err := database.Open(primary.URL("postgres"))
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	_, err = db.ExecContext(t.Context(), "CREATE DATABASE copies")
	require.NoError(t, err)
	return primary, primary.Follow(t, "standby")
}

func followers(t *testing.T, p *servers.Postgres, state string, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		n, err := p.Followers(t.Context(), state)
		return err == nil && n == want
	}, patience, pace, "%d in state %s", want, state)
}

// Where commits wait for the standby, nothing that was acknowledged is lost with the primary. Who
// names both servers finds the other one without a restart, master and replica alike.
func TestPostgresFailover(t *testing.T) {
	asked(t)
	primary, standby := startPair(t)
	require.NoError(t, primary.Set(t.Context(), "synchronous_standby_names", "standby"))
	followers(t, primary, "sync", 1)
	s := newSystem(t, servers.URLOf("postgres", primary, standby),
		servers.URLOf("copies", primary, standby), "memory:"+t.Name())
	s.write()
	s.during("the primary is killed, its synchronous standby promoted", func() {
		require.NoError(t, primary.Stop("immediate"))
		require.NoError(t, standby.TakeOver())
	})
	s.finish()
}

// Where commits do not wait, the standby may lack the last ones. Then the replica knows what the
// master lost. That is said, and a sync by force takes the replica back.
func TestPostgresFailoverToAStandbyThatIsBehind(t *testing.T) {
	asked(t)
	primary, standby := startPair(t)
	s := newSystem(t, servers.URLOf("postgres", primary, standby), dbtest.SQLiteURL(t),
		"memory:"+t.Name())
	for id := range int64(keys) { // so that none is only in what is lost
		require.NoError(t, s.change(id, s.written.Add(1)))
	}
	s.write()
	s.flows(200)
	require.NoError(t, standby.Set(t.Context(), "primary_conninfo", ""))
	followers(t, primary, "streaming", 0)
	s.during("the primary is killed, a standby promoted that lacks 400 changes", func() {
		s.flows(400)
		require.NoError(t, primary.Stop("immediate"))
		require.NoError(t, standby.TakeOver())
	})
	tables, err := admin.Open(s.copies, admin.Config{})
	require.NoError(t, err)
	found, err := tables.Replica(t.Context())
	require.NoError(t, err)
	var state diagnosis.ReplicaState
	require.Eventually(t, func() bool {
		state, err = diagnosis.OfReplica(t.Context(), found, diagnosis.Config{})
		return err == nil && len(state.Troubles) > 0
	}, patience, pace, "nobody says that the master went back")
	require.Equal(t, diagnosis.WentBack, state.Troubles[0].Kind, state.Sentence)
	t.Log(state.Sentence)
	s.endWriters()
	_, err = operate.Sync(t.Context(), s.box, "item", operate.SyncOptions{
		To: outbox.SyncOptions{Force: true},
	})
	require.NoError(t, err)
	s.acked = nil // some of it is lost
	s.becomesEqual()
}
