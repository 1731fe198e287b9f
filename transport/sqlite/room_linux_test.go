package sqlite_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

// smallDisk mounts a file system of some megabytes, which takes root.
func smallDisk(t *testing.T, megabytes int) (folder string) {
	t.Helper()
	folder = t.TempDir()
	err := syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%dm", megabytes))
	if err != nil {
		t.Skipf("needs a file system of its own: mount a tmpfs as root: %v", err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(folder, syscall.MNT_DETACH)) })
	return folder
}

// publishUntilRefused returns how many messages were taken: of large batches, and then of the
// smallest, until nothing goes into the room that is left.
func publishUntilRefused(t *testing.T, pub *sqlite.Publisher) (taken int, err error) {
	t.Helper()
	for _, size := range []int{50, 1} {
		var n int
		n, err = publishBatchesUntilRefused(t, pub, size)
		taken += n
	}
	return taken, err
}

func publishBatchesUntilRefused(
	t *testing.T, pub *sqlite.Publisher, size int,
) (taken int, err error) {
	t.Helper()
	payload := make([]byte, 4<<10)
	for range 100_000 {
		batch := make([]transport.Outgoing, size)
		for i := range batch {
			batch[i] = transport.Outgoing{Topic: "order", Message: message.NewMessage("id", payload)}
		}
		if err := pub.PublishBatch(t.Context(), batch)[0]; err != nil {
			return taken, err
		}
		taken += len(batch)
	}
	require.Fail(t, "it has no end")
	return 0, nil
}

func TestAFullDiskStopsPublishingAndNotConsuming(t *testing.T) {
	path := filepath.Join(smallDisk(t, 24), "broker.db")
	makeQueue(t, path, "webhooks", "order")
	pub := newPublisher(t, sqlite.Config{Path: path})
	for range 2 {
		taken, err := publishUntilRefused(t, pub)
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorContains(t, err, "consumers can work")
		require.ErrorContains(t, pub.Probe(t.Context()), "consumers can work", "so that nothing is ready")
		require.Greater(t, taken, 500, "also when it was full before")
		consume(t, path, taken)
	}
}

func consume(t *testing.T, path string, n int) {
	t.Helper()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"})
	messages, err := sub.SubscribeWindow(t.Context(), "order", 200)
	require.NoError(t, err)
	for range n {
		receive(t, messages).Ack()
	}
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond)
	require.NoError(t, sub.Close())
}

// The file does not shrink when everything in it has been consumed:
// its own pages are the room then.
func TestAnEmptiedFileTakesMessagesOnADiskAtItsReserve(t *testing.T) {
	folder := smallDisk(t, 24)
	path := filepath.Join(folder, "broker.db")
	makeQueue(t, path, "webhooks", "order")
	pub := newPublisher(t, sqlite.Config{Path: path})
	taken, err := publishUntilRefused(t, pub)
	require.ErrorIs(t, err, transport.ErrUnavailable)
	consume(t, path, taken)
	exec(t, path, "PRAGMA wal_checkpoint(TRUNCATE)")

	var stat syscall.Statfs_t
	require.NoError(t, syscall.Statfs(folder, &stat))
	free := int(stat.Bavail) * int(stat.Bsize)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "junk"), make([]byte, max(free-7<<20, 0)), 0o600))
	again, err := publishUntilRefused(t, pub)
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.Greater(t, again, 500)
	consume(t, path, again)
}

func TestADiskThatOthersFillDelaysOnly(t *testing.T) {
	folder := smallDisk(t, 16)
	path := filepath.Join(folder, "broker.db")
	log, logger := newLog()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks", Logger: logger})
	messages, err := sub.SubscribeWindow(t.Context(), "order", 50)
	require.NoError(t, err)
	pub := newPublisher(t, sqlite.Config{Path: path})
	taken, err := publishUntilRefused(t, pub)
	require.ErrorIs(t, err, transport.ErrUnavailable)
	junk := filepath.Join(folder, "junk")
	_ = os.WriteFile(junk, make([]byte, 16<<20), 0o600) // as much as there is room for
	held := receive(t, messages)
	require.Error(t, pub.Publish("order", message.NewMessage("x", nil)))

	require.NoError(t, os.Remove(junk))
	held.Ack()
	for range taken - 1 {
		receive(t, messages).Ack()
	}
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond)
	require.NoError(t, pub.Publish("order", message.NewMessage("again", nil)))
	require.False(t, log.contains("damaged"))
}

// A reader that never ends keeps SQLite from emptying its log.
func TestALogThatCannotBeginAnewStopsPublishing(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	pub := newPublisher(t, sqlite.Config{Path: path})
	require.NoError(t, pub.Publish("order", message.NewMessage("1", nil)))
	reader, err := connect(t, path).BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true})
	require.NoError(t, err)
	var n int
	require.NoError(t, reader.QueryRowContext(t.Context(), "SELECT count(*) FROM messages").Scan(&n))

	_, err = publishUntilRefused(t, pub)
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "a process has been reading the file for long")
	info, err := os.Stat(path + "-wal")
	require.NoError(t, err)
	require.Less(t, info.Size(), int64(48<<20))

	require.NoError(t, reader.Rollback())
	require.NoError(t, pub.Publish("order", message.NewMessage("2", nil)))
}
