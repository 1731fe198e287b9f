package db

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// A connection goes back to a pool that the service uses, too.
func TestBoundsEndWithTheTransaction(t *testing.T) {
	for name, of := range map[string]struct {
		newURL         func(testing.TB) string
		own, show, set string
	}{
		"postgres": {
			dbtest.PostgresURL, "SET idle_in_transaction_session_timeout = '77s'; SET lock_timeout = '66s'",
			"SELECT current_setting('idle_in_transaction_session_timeout') || ' ' || current_setting('lock_timeout') || ' ' || " +
				"current_setting('transaction_isolation')", "1s 250ms read committed",
		},
		"mariadb": {
			dbtest.MariaDBURL, "SET SESSION idle_transaction_timeout = 77, SESSION innodb_lock_wait_timeout = 66",
			"SELECT concat_ws(' ', @@idle_transaction_timeout, @@innodb_lock_wait_timeout, @@lock_wait_timeout, @@tx_isolation)",
			"1 1 1 REPEATABLE-READ", // of the session; that of the transaction is not to be seen
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := dbtest.Open(t, of.newURL(t))
			db.SetMaxOpenConns(1)
			d, err := New(db, Names{})
			require.NoError(t, err)
			d.Limit(time.Second, nil)
			_, err = db.ExecContext(t.Context(), of.own)
			require.NoError(t, err)
			show := func(ctx context.Context, db bun.IDB) (text string) {
				require.NoError(t, db.NewRaw(of.show).Scan(ctx, &text))
				return text
			}
			before := show(t.Context(), db)
			failed := errors.New("failed")
			for _, result := range []error{nil, failed} {
				err := d.InBounds(t.Context(), d.bounds, func(ctx context.Context, tx bun.IDB) error {
					require.Equal(t, of.set, show(ctx, tx))
					return result
				})
				require.ErrorIs(t, err, result)
				require.Equal(t, before, show(t.Context(), db))
			}
			ctx, cancel := context.WithCancel(t.Context())
			err = d.InBounds(ctx, d.bounds, func(ctx context.Context, tx bun.IDB) error {
				cancel()
				_, err := tx.ExecContext(ctx, "SELECT 1")
				return err
			})
			require.ErrorIs(t, err, context.Canceled)
			after := show(t.Context(), db) // of the same connection, or of a new one
			require.NotEqual(t, of.set, after)
		})
	}
}
