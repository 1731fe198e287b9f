package database_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
)

// A transaction that is cancelled while it begins leaves a connection that writes.
func TestAConnectionWritesAfterATransactionThatWasCancelled(t *testing.T) {
	db, err := database.Open("sqlite://" + filepath.Join(t.TempDir(), "x.db"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	db.SetMaxOpenConns(1)
	_, err = db.ExecContext(t.Context(), "CREATE TABLE t (n integer)")
	require.NoError(t, err)
	for i := range 2000 {
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(time.Duration(i%100)*time.Microsecond, cancel)
		if tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: i%2 == 0}); err == nil {
			_ = tx.Rollback() // it may have ended with ctx
		}
		timer.Stop()
		cancel()
		_, err := db.ExecContext(t.Context(), "INSERT INTO t VALUES (1)")
		require.NoError(t, err)
	}
}
