package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport/open"
	"github.com/cqrsync/cqrsync/transport/sqlite"
)

func TestQueuesOfASQLiteBroker(t *testing.T) {
	path := filepath.Join(t.TempDir(), "broker.db")
	broker := "sqlite://" + path
	r := invoke(t.Context(), "queues", "list", "--broker", broker)
	require.Equal(t, exit.Failed, r.code)
	require.Contains(t, r.stderr, path)
	require.Contains(t, r.stderr, "it does not exist")
	require.NoFileExists(t, path)

	for _, queue := range []string{"departed", "webhooks"} {
		sub, err := open.Subscriber(broker, queue, open.Options{})
		require.NoError(t, err)
		require.NoError(t, sub.(*sqlite.Subscriber).SubscribeInitialize("order"))
		require.NoError(t, sub.Close())
	}
	pub, err := open.Publisher(broker, open.Options{})
	require.NoError(t, err)
	require.NoError(t, pub.Publish("order", message.NewMessage("1", nil), message.NewMessage("2", nil)))
	require.NoError(t, pub.Close())

	r = invoke(t.Context(), "queues", "list", "--broker", broker)
	require.Equal(t, exit.Done, r.code, r.stderr)
	lines := strings.Split(r.stdout, "\n")
	require.Regexp(t, `^QUEUE +WAITING +OLDEST +CONSUMERS +TOPICS$`, lines[0])
	require.Regexp(t, `^departed +2 +\d+s +0 +order$`, lines[1])
	r = invoke(t.Context(), "queues", "list", "--broker", broker, "--json")
	var object map[string]any
	require.NoError(t, json.Unmarshal([]byte(strings.SplitAfter(r.stdout, "\n")[0]), &object))
	require.Contains(t, object, "oldest_seconds")
	delete(object, "oldest_seconds")
	require.Equal(t, map[string]any{
		"queue": "departed", "topics": []any{"cqrs.departed.order", "order"}, "waiting": 2.0, "consumers": 0.0,
	}, object)

	r = invoke(t.Context(), "queues", "remove", "--broker", broker, "mistyped")
	require.Equal(t, exit.Failed, r.code)
	require.Contains(t, r.stderr, `no such queue: "mistyped"`)
	require.Equal(t, result{stdout: "removed the queue departed and 2 messages that waited in it\n"},
		invoke(t.Context(), "queues", "remove", "--broker", broker, "departed"))

	for _, args := range []string{"list", "remove x"} {
		r = invoke(t.Context(), append([]string{"queues"}, strings.Fields(args+" --broker amqp://user:hunter2@host/")...)...)
		require.Equal(t, exit.Usage, r.code)
		require.Contains(t, r.stderr, "rabbitmqctl")
		require.NotContains(t, r.stderr, "hunter2")
	}
	r = invoke(t.Context(), "queues", "remove", "--broker", broker)
	require.Equal(t, exit.Usage, r.code)
}

func TestBackupCopiesFilesInUse(t *testing.T) {
	url := dbtest.SQLiteURL(t)
	path := strings.TrimPrefix(url, "sqlite://")
	db := dbtest.Open(t, url)
	_, err := db.ExecContext(t.Context(), "CREATE TABLE t (x integer)")
	require.NoError(t, err)
	tx, err := db.BeginTx(t.Context(), nil) // under way
	require.NoError(t, err)
	defer func() { require.NoError(t, tx.Rollback()) }()
	_, err = tx.ExecContext(t.Context(), "INSERT INTO t VALUES (1)")
	require.NoError(t, err)

	to := t.TempDir()
	copied := filepath.Join(to, filepath.Base(path))
	require.Equal(t, result{stdout: copied + "\n"}, invoke(t.Context(), "backup", "--to", to, url))
	var n int
	require.NoError(t, dbtest.Open(t, "sqlite://"+copied).NewRaw("SELECT count(*) FROM t").Scan(t.Context(), &n))
	require.Zero(t, n)

	for args, want := range map[string]string{
		"backup --to " + to + " " + url:                               "exists: name another folder",
		"backup --to " + to + "/none sqlite://x.db":                   "want a folder that exists",
		"backup --to " + to:                                           "no files",
		"backup --to " + to + " postgres://user:hunter2@host/db":      "want sqlite://FILE",
		"backup --to " + to + " sqlite://a/x.db sqlite://b/x.db":      "two files are called x.db",
		"backup --to " + t.TempDir() + " sqlite://" + to + "/mist.db": "does not exist",
	} {
		r := invoke(t.Context(), strings.Fields(args)...)
		require.NotEqual(t, exit.Done, r.code)
		require.Contains(t, r.stderr, want)
		require.NotContains(t, r.stderr, "hunter2")
	}
}
