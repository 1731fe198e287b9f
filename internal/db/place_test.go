package db

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// Whoever may not ask for the server's history is told less, not nothing.
func TestAPlaceIsKnownWithoutPrivileges(t *testing.T) {
	d, err := New(dbtest.Open(t, dbtest.PostgresURL(t)), Names{})
	require.NoError(t, err)
	_, err = d.DB().ExecContext(t.Context(), "CREATE TABLE outbox_incarnation (id int)")
	require.NoError(t, err)
	for _, query := range d.sessions.places(string(d.Table("outbox_incarnation")), true) {
		var place string
		require.NoError(t, d.DB().QueryRowContext(t.Context(), query).Scan(&place), query)
		require.NotEmpty(t, place)
	}
}
