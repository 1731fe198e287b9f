package database_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

type binaryReader interface {
	ReadBinary(ctx context.Context, driverConn any, query string, read func(values [][]byte) error) error
}

// readBinary reads on a connection of the pool.
func readBinary(ctx context.Context, t *testing.T, db *bun.DB, query string, read func(values [][]byte) error) error {
	t.Helper()
	require.Implements(t, (*binaryReader)(nil), db.Dialect())
	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	return conn.Raw(func(driverConn any) error {
		return db.Dialect().(binaryReader).ReadBinary(ctx, driverConn, query, read)
	})
}

func TestAReadThatEndsEarlyLeavesTheConnectionAsItWas(t *testing.T) {
	db := dbtest.Open(t, dbtest.PostgresURL(t))
	db.SetMaxOpenConns(1)
	nothing := func([][]byte) error { return nil }
	var got [][]byte
	one := func(values [][]byte) error {
		got = append(got, append([]byte{}, values[0]...))
		require.Nil(t, values[1])
		return nil
	}

	enough := errors.New("enough")
	require.ErrorIs(t, readBinary(t.Context(), t, db, "SELECT generate_series(1, 100000)", func([][]byte) error { return enough }), enough)
	require.ErrorContains(t, readBinary(t.Context(), t, db, "SELECT 1 FROM no_such_table", nothing), "no_such_table")
	require.ErrorContains(t, readBinary(t.Context(), t, db, "SELECT 1 / (3 - n) FROM generate_series(1, 5) AS n", nothing), "zero")
	require.NoError(t, readBinary(t.Context(), t, db, "SELECT 258::bigint, NULL", one))

	ctx, cancel := context.WithCancel(t.Context())
	err := readBinary(ctx, t, db, "SELECT generate_series(1, 10000000)", func([][]byte) error {
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, readBinary(t.Context(), t, db, "SELECT 258::bigint, NULL", one), "the pool has a new connection")
	require.Equal(t, [][]byte{{0, 0, 0, 0, 0, 0, 1, 2}, {0, 0, 0, 0, 0, 0, 1, 2}}, got)
}

func TestOnlyConnectionsOfItsDriverAreRead(t *testing.T) {
	db := dbtest.Open(t, dbtest.PostgresURL(t))
	require.ErrorContains(t, db.Dialect().(binaryReader).ReadBinary(t.Context(), "none", "SELECT 1", nil), "want pgx's")
}
