package sqlite_test

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

// A master makes the file, too, so that it and its replicas may start in any order.
func TestAKeptQueueMakesTheFile(t *testing.T) {
	path := newPath(t)
	keeper := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	has, err := keeper.HasQueue(t.Context())
	require.NoError(t, err)
	require.False(t, has)
	_, err = keeper.Waiting(t.Context())
	require.ErrorIs(t, err, transport.ErrNoQueue)
	require.NoFileExists(t, path)
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{"order"}))
	require.FileExists(t, path)
	require.NoError(t, publishOne(t, path, "order"))
	require.Zero(t, count(t, path, "consumers"))
}

// A queue that is as it should be needs no write, so keeping it holds nobody up.
func TestKeepingWhatIsThereOnlyReads(t *testing.T) {
	path := newPath(t)
	keeper := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{"order", "customer"}))
	db := connect(t, path)
	tx, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Close()) }()
	_, err = tx.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{"customer", "order", "order"}))
	require.Less(t, time.Since(began), 2*time.Second)
	_, err = tx.ExecContext(t.Context(), "ROLLBACK")
	require.NoError(t, err)
}

func TestAFileThatIsGoneIsMadeByTheKeeper(t *testing.T) {
	path := newPath(t)
	keeper := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	require.NoError(t, keeper.KeepQueue(t.Context(), []string{"order"}))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		require.NoError(t, os.RemoveAll(path+suffix))
	}
	err := keeper.KeepQueue(t.Context(), []string{"order"})
	require.ErrorIs(t, err, transport.ErrUnavailable)
	has, err := keeper.HasQueue(t.Context())
	require.NoError(t, err)
	require.False(t, has)
	require.Eventually(t, func() bool {
		return keeper.KeepQueue(t.Context(), []string{"order"}) == nil
	}, patience, 50*time.Millisecond)
	require.FileExists(t, path)
}
