package main

import (
	"net"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/exit"
)

// What `relay status` says of servers that are away, or not as they should be, are the words of
// docs/operations.md. Nobody but a relay knows how its broker is: it says so in the database.
func TestStatusSaysWhatTheRunbookPromises(t *testing.T) {
	status := func(args ...string) string {
		r := invoke(t.Context(), append([]string{"status", "--patience", "1ms"}, args...)...)
		return r.stdout
	}
	waiting := func(t *testing.T, broker string) (db string) {
		db = dbtest.SQLiteURL(t)
		require.Equal(t, exit.Done, invoke(t.Context(), "migrate", "--db", db).code)
		appendOrder(t, db)
		running(t, "run", "--db", db, "--broker", broker, "--patience", "1ms")
		return db
	}
	t.Run("broker down", func(t *testing.T) {
		t.Parallel()
		db := waiting(t, "amqp://guest:guest@"+nobody(t)+"/")
		runbook.WillSay(t, "the broker is down", func() string { return status("--db", db) })
	})
	t.Run("wrong password", func(t *testing.T) {
		t.Parallel()
		wrong, err := url.Parse(dbtest.Address(t, dbtest.RabbitMQ))
		require.NoError(t, err)
		wrong.User = url.UserPassword("nobody", "hunter2")
		db := waiting(t, wrong.String())
		runbook.WillSay(t, "a wrong password for the broker", func() string { return status("--db", db) })
		require.NotContains(t, status("--db", db), "hunter2")
	})
	t.Run("databases away", func(t *testing.T) {
		t.Parallel()
		for _, scheme := range []string{"postgres", "mysql"} {
			db := scheme + "://u:hunter2@" + nobody(t) + "/db"
			runbook.Says(t, "the master's database is away", status("--db", db))
			runbook.Says(t, "a replica's database is away", status("--side", "replica", "--db", db))
			require.NotContains(t, status("--db", db)+status("--side", "replica", "--db", db), "hunter2")
		}
	})
	t.Run("no tables", func(t *testing.T) {
		t.Parallel()
		for name, newURL := range dbtest.Kinds() {
			if name != "sqlite" { // there a file that does not exist is an error of its own
				runbook.Says(t, "the tables are not there, or older", status("--db", newURL(t)))
			}
		}
	})
}

// nobody is an address at which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}
