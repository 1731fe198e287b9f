package sqlite_test

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience ends a test that would otherwise hang.
const patience = 30 * time.Second

func TestAConfigReportsAllItsMistakes(t *testing.T) {
	_, err := sqlite.NewPublisher(sqlite.Config{Retention: -time.Hour, Lease: time.Millisecond, NackDelay: -1})
	for _, field := range []string{"Path is empty", "Retention is -1h", "Lease is 1ms", "NackDelay is -1ns"} {
		require.ErrorContains(t, err, "sqlite.Config."+field)
	}
	_, err = sqlite.NewSubscriber(sqlite.Config{Path: ":memory:"})
	require.ErrorContains(t, err, "transport/memory")
}

func TestAMessageForNobodyIsRefusedUnlessItMayBeDropped(t *testing.T) {
	path := newPath(t)
	batch := []transport.Outgoing{
		{Topic: "order", Message: message.NewMessage("1", nil)},
		{Topic: "nobody", Message: message.NewMessage("2", nil)},
		{Topic: transport.DirectTopic("webhooks", "order"), Message: message.NewMessage("3", nil)},
	}
	makeQueue(t, path, "webhooks", "order")

	log, logger := newLog()
	dropping := newPublisher(t, sqlite.Config{Path: path, DropUnroutable: true, Logger: logger})
	require.Equal(t, []error{nil, nil, nil}, dropping.PublishBatch(t.Context(), batch))
	require.NoError(t, dropping.Publish("nobody", message.NewMessage("4", nil)))
	require.Equal(t, map[string]int64{"nobody": 2}, dropping.Unroutable())
	require.Equal(t, 1, log.times("they are gone"))
	errs := newPublisher(t, sqlite.Config{Path: path}).PublishBatch(t.Context(), batch)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], transport.ErrUnroutable)
	require.ErrorContains(t, errs[1], `"nobody"`)
	require.NoError(t, errs[2])
	require.Equal(t, 4, count(t, path, "messages"), "its neighbours are published")
}

// overtaken is a context whose deadline has passed when it is asked for the second
// time, and no timer has told anybody.
type overtaken struct {
	context.Context
	asked *atomic.Int64
}

func (o overtaken) Deadline() (time.Time, bool) {
	if o.asked.Add(1) == 1 {
		return time.Now().Add(time.Hour), true
	}
	return time.Now().Add(-time.Second), true
}

// The caller removes what was confirmed: what was left out for its deadline is not.
func TestABatchThatIsTooLateWhenItsTurnComesIsNotConfirmed(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	batch := []transport.Outgoing{{Topic: "order", Message: message.NewMessage("1", nil)}}
	errs := newPublisher(t, sqlite.Config{Path: path}).PublishBatch(overtaken{t.Context(), &atomic.Int64{}}, batch)
	require.ErrorIs(t, errs[0], transport.ErrUnavailable)
	require.ErrorIs(t, errs[0], context.DeadlineExceeded)
	require.Zero(t, count(t, path, "messages"))
}

func TestAFileOfSomethingElseIsLeftAlone(t *testing.T) {
	path := newPath(t)
	exec(t, path, "CREATE TABLE messages (text text)")
	err := newPublisher(t, sqlite.Config{Path: path}).Publish("order", message.NewMessage("1", nil))
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, path)
	require.ErrorContains(t, err, "belongs to something else")
	require.ErrorIs(t, newPublisher(t, sqlite.Config{Path: path}).Probe(t.Context()), transport.ErrUnavailable)
	missing := newPath(t)
	require.ErrorIs(t, newPublisher(t, sqlite.Config{Path: missing}).Probe(t.Context()), os.ErrNotExist)
	makeQueue(t, missing, "webhooks", "order")
	require.NoError(t, newPublisher(t, sqlite.Config{Path: missing}).Probe(t.Context()))
}

func TestAFileOfALaterVersionIsLeftAlone(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	exec(t, path, "PRAGMA user_version = 99")
	_, err := newSubscriber(t, sqlite.Config{Path: path}).Subscribe(t.Context(), "order")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "have version 99")
}

func TestAMissingFolderIsTroubleThatMayPass(t *testing.T) {
	path := filepath.Join(t.TempDir(), "folder", "broker.db")
	pub := newPublisher(t, sqlite.Config{Path: path})
	require.ErrorIs(t, pub.Publish("order", message.NewMessage("1", nil)), transport.ErrUnavailable)
	require.NoError(t, os.Mkdir(filepath.Dir(path), 0o700))
	makeQueue(t, path, "webhooks", "order")
	require.NoError(t, pub.Publish("order", message.NewMessage("1", nil)))
}

func TestWaitingForTheLockEndsWithTheContext(t *testing.T) {
	path := newPath(t)
	makeQueue(t, path, "webhooks", "order")
	pub := newPublisher(t, sqlite.Config{Path: path})

	other := connect(t, path)
	conn, err := other.Conn(t.Context())
	require.NoError(t, err)
	_, err = conn.ExecContext(t.Context(), "BEGIN IMMEDIATE")
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	errs := pub.PublishBatch(ctx, []transport.Outgoing{{Topic: "order", Message: message.NewMessage("given up", nil)}})
	require.ErrorIs(t, errs[0], transport.ErrUnavailable)
	require.ErrorIs(t, errs[0], context.DeadlineExceeded)
	_, err = conn.ExecContext(t.Context(), "COMMIT")
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	require.NoError(t, pub.Publish("order", message.NewMessage("again", nil)))
	messages, err := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"}).Subscribe(t.Context(), "order")
	require.NoError(t, err)
	require.Equal(t, "again", receive(t, messages).UUID, "what was given up while it waited is not published later")
}

func TestASubscriptionOutlivesTroubleWithTheFile(t *testing.T) {
	path := newPath(t)
	log, logger := newLog()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks", Logger: logger})
	messages, err := sub.SubscribeWindow(t.Context(), "order", 2)
	require.NoError(t, err)
	pub := newPublisher(t, sqlite.Config{Path: path})
	require.NoError(t, pub.Publish("order", message.NewMessage("1", nil), message.NewMessage("2", nil)))
	first, second := receive(t, messages), receive(t, messages)

	exec(t, path, "ALTER TABLE messages RENAME TO hidden")
	first.Ack()
	require.Eventually(t, func() bool { return log.contains("queue out of reach") }, patience, 5*time.Millisecond)
	second.Ack()
	require.ErrorIs(t, pub.Publish("order", message.NewMessage("3", nil)), transport.ErrUnavailable)

	exec(t, path, "ALTER TABLE hidden RENAME TO messages")
	require.NoError(t, pub.Publish("order", message.NewMessage("3", nil)))
	third := receive(t, messages)
	require.Equal(t, "3", third.UUID)
	third.Ack()
	require.Eventually(t, func() bool { return count(t, path, "messages") == 0 }, patience, 5*time.Millisecond,
		"acks given meanwhile count")
}

// Two names for one file are two files for the package: as far apart as two
// processes, except that they die together.
func TestMessagesPassBetweenProcesses(t *testing.T) {
	path := newPath(t)
	messages, err := newSubscriber(t, sqlite.Config{Path: path, Queue: "webhooks"}).Subscribe(t.Context(), "order")
	require.NoError(t, err)
	pub := newPublisher(t, sqlite.Config{Path: otherName(t, path)})
	for i := range 20 {
		require.NoError(t, pub.Publish("order", message.NewMessage(fmt.Sprint(i), nil)))
		msg := receive(t, messages)
		require.Equal(t, fmt.Sprint(i), msg.UUID)
		msg.Ack()
	}
}

func TestANewFileMayBeMadeByManyAtOnce(t *testing.T) {
	path := newPath(t)
	var all sync.WaitGroup
	errs := make(chan error, 16)
	for i := range cap(errs) / 2 {
		pub := newPublisher(t, sqlite.Config{Path: otherName(t, path)})
		sub := newSubscriber(t, sqlite.Config{Path: otherName(t, path), Queue: fmt.Sprint(i)})
		all.Go(func() { errs <- sub.SubscribeInitialize("order") })
		all.Go(func() {
			err := pub.Publish("order", message.NewMessage("id", nil))
			for errors.Is(err, os.ErrNotExist) || errors.Is(err, transport.ErrUnroutable) { // until a subscriber has made it
				err = pub.Publish("order", message.NewMessage("id", nil))
			}
			errs <- err
		})
	}
	all.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, cap(errs), count(t, path, "bindings"))
}

func newPath(t *testing.T) string { return filepath.Join(t.TempDir(), "broker.db") }

func otherName(t *testing.T, path string) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "elsewhere")
	require.NoError(t, os.Symlink(filepath.Dir(path), folder))
	return filepath.Join(folder, filepath.Base(path))
}

func newPublisher(t *testing.T, config sqlite.Config) *sqlite.Publisher {
	t.Helper()
	pub, err := sqlite.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func newSubscriber(t *testing.T, config sqlite.Config) *sqlite.Subscriber {
	t.Helper()
	sub, err := sqlite.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func makeQueue(t *testing.T, path, queue, topic string) {
	t.Helper()
	sub := newSubscriber(t, sqlite.Config{Path: path, Queue: queue})
	require.NoError(t, sub.SubscribeInitialize(topic))
	require.NoError(t, sub.Close())
}

func receive(t *testing.T, messages <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, open := <-messages:
		require.True(t, open, "the subscription ended")
		return msg
	case <-time.After(patience):
		require.FailNow(t, "no message arrived")
		return nil
	}
}

// connect looks at the file from outside.
func connect(t *testing.T, path string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", path+"?_busy_timeout=10000")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func exec(t *testing.T, path, statement string) {
	t.Helper()
	_, err := connect(t, path).ExecContext(t.Context(), statement)
	require.NoError(t, err)
}

func count(t *testing.T, path, what string) (n int) {
	t.Helper()
	require.NoError(t, connect(t, path).QueryRowContext(t.Context(), "SELECT count(*) FROM "+what).Scan(&n))
	return n
}

// logged is what was logged so far.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func newLog() (*logged, *slog.Logger) {
	l := &logged{}
	return l, slog.New(slog.NewTextHandler(l, nil))
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) times(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.text.Bytes(), []byte(text))
}

func (l *logged) contains(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Contains(l.text.Bytes(), []byte(text))
}
