package main

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/exit"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// A master and a replica of the stock binary talk to each other, and the commands show it.
func TestReplicasOfTheStockBinary(t *testing.T) {
	for name, broker := range map[string]func(t *testing.T) string{
		"sqlite": func(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "broker.db") },
		"redis":  redisURL,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			replicasOfTheStockBinary(t, broker(t))
		})
	}
}

// redisURL is that of a place on the Redis server where nobody else is.
func redisURL(t *testing.T) string {
	t.Helper()
	u, err := url.Parse(dbtest.Address(t, dbtest.Redis))
	require.NoError(t, err)
	query := u.Query()
	query.Set("prefix", "{stock-"+watermill.NewShortUUID()+"}:")
	u.RawQuery = query.Encode()
	return u.String()
}

func replicasOfTheStockBinary(t *testing.T, broker string) {
	folder := t.TempDir()
	config := filepath.Join(folder, "cqrsync.yaml")
	require.NoError(t, os.WriteFile(config, []byte("queue: stats\nmodels: {order: {table: orders}}\n"), 0o600))
	master, copies := dbtest.SQLiteURL(t), dbtest.SQLiteURL(t)
	for _, side := range []string{master, copies} {
		_, err := dbtest.Open(t, side).ExecContext(t.Context(),
			"CREATE TABLE orders (id integer NOT NULL PRIMARY KEY, status text NOT NULL)")
		require.NoError(t, err)
	}
	do := func(want int, args ...string) result {
		t.Helper()
		r := invoke(t.Context(), args...)
		require.Equal(t, want, r.code, r.stderr)
		return r
	}
	do(exit.Done, "migrate", "--db", master)
	do(exit.Done, "capture", "install", "--db", master, "--config", config)
	require.Regexp(t, `^QUEUE +MODEL +PROCESSES +LAG`, do(exit.Done, "replicas", "list", "--db", master).stdout)

	_, err := dbtest.Open(t, master).ExecContext(t.Context(), "INSERT INTO orders VALUES (1, 'new')")
	require.NoError(t, err)
	running(t, "run", "--db", master, "--broker", broker, "--config", config, "--queue", "stats")
	require.Eventually(t, func() bool { // it waits for the replica, which does not run yet
		return hasQueue(t, broker, "stats")
	}, 20*time.Second, 20*time.Millisecond)
	running(t, "replicate", "--migrate", "--db", copies, "--broker", broker, "--config", config)

	var known struct {
		Queue      string   `json:"queue"`
		Instances  int      `json:"instances"`
		LagSeconds *float64 `json:"lag_seconds"`
	}
	require.Eventually(t, func() bool {
		r := invoke(t.Context(), "replicas", "list", "--db", master, "--json")
		return json.Unmarshal([]byte(r.stdout), &known) == nil && known.LagSeconds != nil
	}, 60*time.Second, 100*time.Millisecond)
	require.Equal(t, "stats", known.Queue)
	require.Equal(t, 1, known.Instances)
	require.Less(t, *known.LagSeconds, 15.0)
	require.Regexp(t, `(?m)^stats +order +1 +\S+ +0 +0 +`, do(exit.Done, "status", "--db", master).stdout)

	var n int
	require.NoError(t, dbtest.Open(t, copies).NewRaw("SELECT count(*) FROM orders").Scan(t.Context(), &n))
	require.Equal(t, 1, n)

	require.Contains(t, do(exit.Usage, "replicas", "forget", "--db", master, "nobody").stderr, "relay replicas list")
	do(exit.Usage, "replicas", "forget", "--db", master)
	require.Contains(t, do(exit.Done, "replicas", "forget", "--db", master, "stats").stdout, "forgot")
}

func hasQueue(t *testing.T, broker, queue string) bool {
	t.Helper()
	subscriber, err := open.Subscriber(broker, queue, open.Options{Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer func() { require.NoError(t, subscriber.Close()) }()
	has, err := subscriber.(transport.QueueFinder).HasQueue(t.Context())
	return err == nil && has
}

// running runs a command until the test ends.
func running(t *testing.T, args ...string) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var log output
	all.Go(func() {
		if code := execute(ctx, append([]string{"relay"}, args...), io.Discard, &log); code != exit.Done {
			t.Errorf("relay %s ended with %d: %s", args[0], code, log.String())
		}
	})
	t.Cleanup(func() { stop(); all.Wait() })
}

func TestQueuesAreNamedWithModels(t *testing.T) {
	for given, want := range map[string]map[string][]string{
		"stats":                       {"stats": nil},
		"stats,webhooks:order+person": {"stats": nil, "webhooks": {"order", "person"}},
		":order":                      nil,
		"stats:":                      nil,
		"stats:+":                     nil,
	} {
		got, err := namedQueues(strings.Split(given, ","))
		require.Equal(t, want == nil, err != nil, given)
		require.Equal(t, want, got, given)
	}
	r := invoke(t.Context(), "run", "--db", dbtest.SQLiteURL(t), "--migrate", "--broker", "sqlite://x", "--queue", "a")
	require.Equal(t, exit.Usage, r.code)
	require.Contains(t, r.stderr, "--queue (or CQRSYNC_QUEUES): --config is not given")
}

// A replica serves how it is doing, as a relay does.
func TestAReplicaServesItsHealth(t *testing.T) {
	folder := t.TempDir()
	config := filepath.Join(folder, "stats.yaml")
	require.NoError(t, os.WriteFile(config, []byte("queue: stats\nmodels:\n  order:\n    table: orders\n"), 0o600))
	copies := dbtest.SQLiteURL(t)
	_, err := dbtest.Open(t, copies).ExecContext(t.Context(),
		"CREATE TABLE orders (id integer NOT NULL PRIMARY KEY, status text NOT NULL)")
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stderr output
	ended := make(chan int, 1)
	go func() {
		ended <- execute(ctx, []string{
			"relay", "replicate", "--migrate", "--db", copies, "--silent", "--health", "0", "--config", config,
			"--broker", "sqlite://" + filepath.Join(folder, "broker.db"),
		}, io.Discard, &stderr)
	}()
	stderr.wait(t, "health and metrics")
	require.Eventually(t, func() bool { return fetch(t, stderr.String(), "/readyz") == "ready\n" },
		time.Minute, 20*time.Millisecond, stderr.String())
	require.Contains(t, fetch(t, stderr.String(), "/metrics"), "\ncqrsync_replica_readable{queue=\"stats\"} 1\n")
	stop()
	require.Equal(t, exit.Done, <-ended, stderr.String())
}
