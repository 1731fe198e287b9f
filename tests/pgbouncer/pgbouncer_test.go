// Package pgbouncer_test runs everything through PgBouncer in transaction mode, where a statement may meet another
// server connection than the one before it: no session state, no advisory locks, no prepared statements, no LISTEN.
package pgbouncer_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/relay/wake"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/tests/containers"
	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func TestMain(m *testing.M) { containers.Main(m) }

const (
	patience = 60 * time.Second
	// serverConns is how many connections the proxy has for everybody: far fewer than there are clients.
	serverConns = 3
)

type order struct {
	bun.BaseModel `bun:"table:orders"`
	outbox.Tracked

	ID     int64 `bun:",pk"`
	Status string
}

type orderCopy struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID       int64 `bun:",pk"`
	Status   string
	Revision int64 `bun:"cqrs_revision"`
}

func TestEverythingWorksThroughATransactionPool(t *testing.T) {
	bouncer := start(t)
	db := dbtest.Open(t, bouncer)
	ctx := t.Context()

	box, err := outbox.New(db, outbox.Config{})
	require.NoError(t, err)
	require.NoError(t, outbox.Register[order](box, "order"))
	require.NoError(t, box.Migrate(ctx))
	rep, err := replica.New(db, replica.Config{Queue: "stats"})
	require.NoError(t, err)
	require.NoError(t, replica.Register[orderCopy](rep, "order"))
	require.NoError(t, rep.Migrate(ctx))
	for _, table := range []any{(*order)(nil), (*orderCopy)(nil)} {
		_, err := db.NewCreateTable().Model(table).Exec(ctx)
		require.NoError(t, err)
	}

	broker := memory.New()
	subscriber := broker.Subscriber("stats")
	defer func() { require.NoError(t, subscriber.Close()) }()
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	defer background.Wait()
	defer stop()
	run := func(what string, run func(context.Context) error) {
		background.Go(func() {
			if err := run(running); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		})
	}
	run("replica", func(ctx context.Context) error { return rep.Run(ctx, subscriber) })
	var relays []*relay.Relay
	startRelay := func(wake <-chan struct{}) {
		rel, err := relay.New(dbtest.Open(t, bouncer), broker.Publisher(), relay.Config{
			LeaseTTL: 2 * time.Second, PollInterval: 20 * time.Millisecond, Wake: wake, Logger: slog.New(slog.DiscardHandler),
		})
		require.NoError(t, err)
		relays = append(relays, rel)
		run("relay", rel.Run)
	}
	startRelay(box.Wake())
	startRelay(nil)

	const writers, keys, updates = 8, 40, 5
	var writing sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for n := range updates {
				for k := range keys {
					if k%writers != w {
						continue
					}
					err := box.RetryInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
						row := &order{ID: int64(k), Status: fmt.Sprint("status ", n)}
						var err error
						if n == 0 {
							_, err = tx.NewInsert().Model(row).Exec(ctx)
						} else {
							_, err = tx.NewUpdate().Model(row).WherePK().Exec(ctx)
						}
						return err
					})
					if err != nil {
						t.Errorf("write: %v", err)
						return
					}
				}
			}
		})
	}
	writing.Wait()
	require.Eventually(t, func() bool {
		copies, err := db.NewSelect().Model((*orderCopy)(nil)).
			Where("status = ? AND cqrs_revision = ?", fmt.Sprint("status ", updates-1), updates-1).Count(ctx)
		require.NoError(t, err)
		st, err := relays[0].Status(ctx)
		require.NoError(t, err)
		return copies == keys && st.Unsent == 0 && st.DeadLetters == 0
	}, patience, 20*time.Millisecond)
	require.Eventually(t, func() bool {
		return relays[0].Stats().Lanes == 32 && relays[1].Stats().Lanes == 32
	}, patience, 20*time.Millisecond, "the relays share the lanes")

	var advisory int
	require.NoError(t, db.QueryRowContext(ctx, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = "+
		"(SELECT oid FROM pg_database WHERE datname = current_database())").Scan(&advisory))
	require.Zero(t, advisory)
}

func TestAListenerFindsOutAboutTheProxy(t *testing.T) {
	bouncer := start(t)
	var log bytes.Buffer
	listener, err := wake.NewListener(bouncer, wake.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	listener.Run(t.Context()) // returns, because nothing would be heard
	require.Contains(t, log.String(), "not woken by other processes, polling instead")
	require.Contains(t, log.String(), "a proxy is in between")
	require.Empty(t, listener.Wake())
}

// start runs a PgBouncer of its own in front of an empty schema and returns the URL that leads through it.
func start(t *testing.T) string {
	t.Helper()
	server, err := url.Parse(dbtest.PostgresURL(t))
	require.NoError(t, err)
	password, _ := server.User.Password()
	bouncer := servers.StartPgBouncer(t, fmt.Sprintf("pooled = host=%s port=%s dbname=%s user=%s %s connect_query='SET search_path = %s'",
		server.Hostname(), server.Port(), strings.Trim(server.Path, "/"), server.User.Username(), passwordOption(password),
		server.Query().Get("search_path")), serverConns)
	pooled := bouncer.URL("any", "pooled")
	db := dbtest.Open(t, pooled)
	require.Eventually(t, func() bool { return db.PingContext(t.Context()) == nil }, patience, 20*time.Millisecond, "PgBouncer does not answer")
	return pooled
}

func passwordOption(password string) string {
	if password == "" {
		return ""
	}
	return "password=" + password
}
