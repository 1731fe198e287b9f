package soak

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// A database that is in trouble holds a replica up, and costs it nothing: every message is applied once when the trouble is
// over, none becomes a dead letter or waits because of it.
func TestTroubleWithTheDatabaseOnlyHoldsUp(t *testing.T) {
	server := startPostgres(t)
	for name, trouble := range map[string]func(t *testing.T, f *troubled){
		"stopped and started": func(_ *testing.T, f *troubled) {
			server.stop("fast")
			f.publish(10)
			server.start()
		},
		"crashed": func(_ *testing.T, f *troubled) {
			server.stop("immediate")
			f.publish(10)
			server.start()
		},
		"read only, as after a failover": func(t *testing.T, f *troubled) {
			f.during(t, func() {
				f.admin(t, "ALTER SYSTEM SET default_transaction_read_only = on")
				f.admin(t, "SELECT pg_reload_conf()")
			}, func() {
				f.admin(t, "ALTER SYSTEM RESET default_transaction_read_only")
				f.admin(t, "SELECT pg_reload_conf()")
			})
		},
		"every connection cut again and again": func(t *testing.T, f *troubled) {
			for range 20 {
				f.publish(5)
				f.admin(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'")
			}
		},
		"no connection to be had": func(t *testing.T, f *troubled) {
			f.during(t, func() {
				f.admin(t, "ALTER ROLE replica CONNECTION LIMIT 0")
				f.admin(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'replica'")
			}, func() {
				f.admin(t, "ALTER ROLE replica CONNECTION LIMIT -1")
			})
		},
		"no space for a table": func(t *testing.T, f *troubled) {
			// What a full disk looks like to a client: SQLSTATE 53100, from a trigger.
			f.admin(t, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
				'BEGIN RAISE EXCEPTION USING ERRCODE = ''53100'', MESSAGE = ''no space left on device''; END'`)
			f.during(t, func() {
				f.admin(t, "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON orders EXECUTE FUNCTION full_disk()")
			}, func() {
				f.admin(t, "DROP TRIGGER full_disk ON orders")
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTroubled(t, server)
			f.publish(10)
			trouble(t, f)
			f.publish(10)
			require.Eventually(t, func() bool { return f.rep.Stats().Applied >= f.published }, time.Minute, 5*time.Millisecond,
				"%+v", f.rep.Stats())
			require.NoError(t, f.stop())
			require.Equal(t, f.published, f.rep.Stats().Applied)
			require.Zero(t, f.rep.Stats().DeadLettered)
			require.Zero(t, f.rep.Stats().Waiting)
			var sum int64
			f.query(t, "SELECT coalesce(sum(total), 0) FROM orders", &sum)
			require.Equal(t, f.published, sum, "each row holds its last revision, counted from 1")
		})
	}
}

const troubledKeys = 7

type troubled struct {
	t         *testing.T
	server    *postgres
	rep       *replica.Replica
	broker    *memory.Broker
	published int64
	revisions [troubledKeys]int64
	stop      func() error
	log       *seen
}

// seen is a log handler that tells whether the replica complained.
type seen struct {
	slog.Handler
	once sync.Once
	warn chan struct{}
}

func (s *seen) Enabled(context.Context, slog.Level) bool { return true }
func (s *seen) WithAttrs([]slog.Attr) slog.Handler       { return s }
func (s *seen) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "batch not applied; trying again until it is" {
		s.once.Do(func() { close(s.warn) })
	}
	return nil
}

func newTroubled(t *testing.T, server *postgres) *troubled {
	t.Helper()
	f := &troubled{t: t, server: server, broker: memory.New(), log: &seen{Handler: slog.DiscardHandler, warn: make(chan struct{})}}
	f.admin(t, "DROP TABLE IF EXISTS orders; DROP TABLE IF EXISTS replica_revisions, replica_waiting, replica_dead_letters, replica_migrations, "+
		"replica_identity, replica_databases, replica_masters, replica_gaps, replica_backfills, "+
		"replica_verifications")
	f.admin(t, "DROP FUNCTION IF EXISTS full_disk")
	f.admin(t, "DO $$ BEGIN CREATE ROLE replica LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; GRANT ALL ON SCHEMA public TO replica")
	address := fmt.Sprintf("postgres://replica@127.0.0.1:%d/postgres?sslmode=disable", server.port)
	db, err := database.Open(address)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	_, err = db.ExecContext(t.Context(), "CREATE TABLE orders (id bigint PRIMARY KEY, total bigint NOT NULL, note text)")
	require.NoError(t, err)
	f.rep, err = replica.New(db, replica.Config{Queue: "q", Logger: slog.New(f.log), Workers: 2})
	require.NoError(t, err)
	require.NoError(t, f.rep.Migrate(t.Context()))
	require.NoError(t, replica.Register[Order](f.rep, "order"))
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	subscriber := f.broker.Subscriber("q")
	go func() { result <- f.rep.Run(ctx, subscriber) }()
	t.Cleanup(cancel)
	f.stop = func() error {
		cancel()
		err := <-result
		require.NoError(t, subscriber.Close())
		return err
	}
	select {
	case <-f.rep.Running():
	case err := <-result:
		require.NoError(t, err)
	}
	return f
}

// admin runs a statement as the superuser, on a connection of its own.
func (f *troubled) admin(t *testing.T, statement string) {
	t.Helper()
	f.asSuperuser(t, func(ctx context.Context, db *bun.DB) error {
		_, err := db.ExecContext(ctx, statement)
		return err
	})
}

func (f *troubled) query(t *testing.T, statement string, into any) {
	t.Helper()
	f.asSuperuser(t, func(ctx context.Context, db *bun.DB) error { return db.NewRaw(statement).Scan(ctx, into) })
}

func (f *troubled) asSuperuser(t *testing.T, use func(context.Context, *bun.DB) error) {
	t.Helper()
	db, err := database.Open(f.server.url() + "&default_transaction_read_only=off")
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	require.NoError(t, use(t.Context(), db))
}

// during begins a trouble, publishes until the replica complains of it, and ends it, even where the test fails: the next case
// uses the same server. A server tells its sessions of a changed setting, or to end, in its own time, so that any number of
// messages may still be applied before the trouble is felt.
func (f *troubled) during(t *testing.T, begin, end func()) {
	t.Helper()
	begin()
	defer end()
	for deadline := time.Now().Add(time.Minute); ; {
		f.publish(1)
		select {
		case <-f.log.warn:
			f.publish(10)
			return
		case <-time.After(10 * time.Millisecond):
			require.True(t, time.Now().Before(deadline), "the replica did not notice")
		}
	}
}

// publish sends n messages, each the next revision of some row, whose total is how often it was written.
func (f *troubled) publish(n int) {
	f.t.Helper()
	publisher := f.broker.Publisher()
	for range n {
		id := f.published % troubledKeys
		revision := f.revisions[id]
		f.revisions[id]++
		f.published++
		m := &envelope.Message{Signal: envelope.Save, Model: "order", PK: fmt.Appendf(nil, "%d", id), Revision: revision}
		m.Updated = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC).Add(time.Duration(f.published) * time.Second)
		m.Data = envelope.Stamp(fmt.Appendf(nil, `{"id":%d,"total":%d}`, id, revision+1), revision, m.Updated)
		body, err := m.Encode()
		require.NoError(f.t, err)
		msg := message.NewMessage("", body)
		msg.Metadata = m.Metadata()
		require.NoError(f.t, publisher.Publish("order", msg))
	}
}
