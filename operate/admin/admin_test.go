package admin_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
)

// What the functions do with rows is shown by the commands that are made of them, in cmd/relay.
func TestTablesAreMadeAndThenHaveTwoSides(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		tables, err := admin.Open(db, admin.Config{TablePrefix: "c_"})
		require.NoError(t, err)
		_, err = tables.Master(t.Context())
		require.ErrorContains(t, err, "migrate")
		for _, side := range []admin.Side{admin.OutboxSide, admin.ReplicaSide} {
			applied, err := tables.Migrate(t.Context(), side)
			require.NoError(t, err)
			require.NotEmpty(t, applied)
		}
		master, err := tables.Master(t.Context())
		require.NoError(t, err)
		require.NoError(t, master.SetLanes(t.Context(), 3, nil))
		lanes, err := master.Lanes(t.Context())
		require.NoError(t, err)
		require.Len(t, lanes, 3)
		st, err := master.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(3), st.Lanes)
		require.True(t, st.Incarnation.First())
		_, err = master.ForgetDeleted(t.Context(), "order", time.Hour)
		require.ErrorContains(t, err, "want 2160h0m0s or more")

		replica, err := tables.Replica(t.Context())
		require.NoError(t, err)
		of, err := replica.Status(t.Context())
		require.NoError(t, err)
		require.Equal(t, admin.ReplicaStatus{
			Waiting: map[string]int64{}, Masters: []admin.KnownMaster{}, Databases: []admin.OtherDatabase{},
			Verifications: []admin.ReplicaVerification{},
			DeadLetters:   map[string]int64{}, Stuck: map[string][]admin.ReplicaStuck{},
		}, of)
	})
}

func TestAConfigurationSaysAllThatIsWrong(t *testing.T) {
	err := admin.Config{Schema: "a-b", TablePrefix: "c.d"}.Validate()
	require.ErrorContains(t, err, `schema "a-b"`)
	require.ErrorContains(t, err, `table prefix "c.d"`)
	_, err = admin.MigrationSQL("sqlite", admin.OutboxSide, admin.Config{Schema: "s"})
	require.ErrorContains(t, err, "SQLite has no schemas")
}
