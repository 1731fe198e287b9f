package sqlite_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

// remove deletes the file and what SQLite has beside it.
func remove(t *testing.T, path string) {
	t.Helper()
	require.NoError(t, os.Remove(path))
	for _, beside := range []string{"-wal", "-shm"} {
		_ = os.Remove(path + beside) // perhaps there is none
	}
}

// backUp makes a copy of the file while it is in use.
func backUp(t *testing.T, path string) (copied string) {
	t.Helper()
	copied = filepath.Join(t.TempDir(), "backup.db")
	exec(t, path, fmt.Sprintf("VACUUM INTO '%s'", copied))
	return copied
}

// eventually publishes until somebody takes it.
func eventually(t *testing.T, pub *sqlite.Publisher, topic, id string) {
	t.Helper()
	require.Eventually(t, func() bool { return pub.Publish(topic, message.NewMessage(id, nil)) == nil },
		patience, 10*time.Millisecond, id)
}

func TestNothingIsPublishedToAFileThatWasDeleted(t *testing.T) {
	for _, rest := range []string{"of others", "of its own"} {
		t.Run(rest, func(t *testing.T) {
			path := newPath(t)
			log, logger := newLog()
			name := path
			if rest == "of others" {
				name = otherName(t, path)
			}
			sub := newSubscriber(t, sqlite.Config{Path: name, Queue: "webhooks"})
			messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
			require.NoError(t, err)
			makeQueue(t, path, "away", "order")
			pub := newPublisher(t, sqlite.Config{Path: path, Logger: logger})
			require.NoError(t, pub.Publish("order", message.NewMessage("1", nil)))
			first := receive(t, messages)

			remove(t, path)
			err = pub.Publish("order", message.NewMessage("2", nil))
			require.ErrorIs(t, err, transport.ErrUnavailable)
			require.ErrorContains(t, err, path)
			require.NoFileExists(t, path, "a publisher makes none: who would read it?")
			require.NoError(t, pub.Close()) // a relay may be started anew
			pub = newPublisher(t, sqlite.Config{Path: path, Logger: logger})
			require.ErrorIs(t, pub.Probe(t.Context()), os.ErrNotExist)

			eventually(t, pub, "order", "3") // when the subscription has made a new file
			next := receive(t, messages)
			require.Equal(t, "3", next.UUID)
			first.Ack() // of the file that is gone
			next.Ack()
			require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond)
			if rest == "of others" {
				require.Equal(t, 1, log.times("deleted or replaced while it was open"))
				require.True(t, log.contains("away:1"), "it says what is lost")
			}
		})
	}
}

func TestAReplacedFileIsTheOneThatIsUsed(t *testing.T) {
	path := newPath(t)
	log, logger := newLog()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks", Logger: logger})
	messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
	require.NoError(t, err)
	pub := newPublisher(t, sqlite.Config{Path: path, Logger: logger})
	publish := func(id string) {
		t.Helper()
		require.NoError(t, pub.Publish("order", message.NewMessage(id, nil)))
	}
	publish("1")
	first := receive(t, messages)
	backup := backUp(t, path) // 1 waits in it, in the hands of the consumer
	publish("2")
	second := receive(t, messages)

	remove(t, path)
	require.NoError(t, os.Rename(backup, path))
	eventually(t, pub, "order", "3") // has the id of 2
	second.Ack()
	first.Ack()
	got := map[string]bool{}
	for len(got) < 2 {
		msg := receive(t, messages)
		got[msg.UUID] = true
		msg.Ack()
	}
	require.Equal(t, map[string]bool{"1": true, "3": true}, got, "an ack of the old file hits nothing in the new one")
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond)
	require.Equal(t, 1, log.times("deleted or replaced while it was open"))
}

// A file in another's place: the relay's own outbox keeps what this one does not take.
func TestAFileThatIsPutInPlaceAndIsNoBrokersIsRefused(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	pub := newPublisher(t, sqlite.Config{Path: path})
	require.NoError(t, pub.Publish("order", message.NewMessage("1", nil)))
	remove(t, path)
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "%04096d", 7), 0o600))
	err := pub.Publish("order", message.NewMessage("2", nil))
	require.ErrorIs(t, err, transport.ErrUnavailable)
	err = pub.Publish("order", message.NewMessage("2", nil))
	require.ErrorContains(t, err, "it is no SQLite database, or damaged")

	remove(t, path)
	db, err := database.Open("sqlite://" + path)
	require.NoError(t, err)
	_, err = db.ExecContext(t.Context(), "CREATE TABLE orders (id integer)")
	require.NoError(t, err)
	require.NoError(t, db.Close())
	err = pub.Publish("order", message.NewMessage("2", nil))
	require.ErrorContains(t, err, "belongs to something else")
}
