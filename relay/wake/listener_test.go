package wake_test

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay/wake"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type item struct {
	bun.BaseModel `bun:"table:items"`
	outbox.Tracked

	ID int64 `bun:",pk,autoincrement"`
}

func TestACommitElsewhereWakesAListener(t *testing.T) {
	url := dbtest.PostgresURL(t)
	box := newBox(t, url, outbox.Config{TablePrefix: "x_"})
	other := newBox(t, url, outbox.Config{TablePrefix: "y_"})
	silent := newBox(t, url, outbox.Config{TablePrefix: "x_", NotifyEvery: -1})

	listener, err := wake.NewListener(url, wake.Config{TablePrefix: "x_", Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		listener.Run(ctx)
	}()
	hears := func(why string) {
		t.Helper()
		select {
		case <-listener.Wake():
		case <-time.After(30 * time.Second):
			require.FailNow(t, why)
		}
	}
	hears("for what was committed before")
	write(t, other)
	write(t, silent)
	require.Empty(t, listener.Wake(), "not its outbox, and nothing said")
	for range 3 {
		write(t, box)
		hears("a commit")
	}
	// A lost connection is made again, and what was missed meanwhile is heard.
	_, err = dbtest.Open(t, url).ExecContext(t.Context(),
		"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %cqrsync_outbox%' AND pid <> pg_backend_pid()"+
			" AND query LIKE '%' || to_regclass('x_outbox_messages')::oid || '%'")
	require.NoError(t, err)
	hears("after it has connected again")
	stop()
	<-ended
}

func newBox(t *testing.T, url string, cfg outbox.Config) *outbox.Box {
	t.Helper()
	db := dbtest.Open(t, url)
	box, err := outbox.New(db, cfg)
	require.NoError(t, err)
	require.NoError(t, outbox.Register[item](box, "item"))
	require.NoError(t, box.Migrate(t.Context()))
	_, err = db.NewCreateTable().Model((*item)(nil)).IfNotExists().Exec(t.Context())
	require.NoError(t, err)
	return box
}

func write(t *testing.T, box *outbox.Box) {
	t.Helper()
	require.NoError(t, box.RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(&item{}).Exec(ctx)
		return err
	}))
}

func TestAListenerEndsWhereNothingCanBeHeard(t *testing.T) {
	listener, err := wake.NewListener(dbtest.SQLiteURL(t), wake.Config{})
	require.NoError(t, err)
	listener.Run(t.Context()) // returns
	require.Empty(t, listener.Wake())
}

func TestAListenerWithoutADatabaseTriesAgainUntilItIsStopped(t *testing.T) {
	var log bytes.Buffer
	listener, err := wake.NewListener("postgres://user:s3cret@127.0.0.1:1/none?sslmode=disable",
		wake.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	listener.Run(ctx)
	require.Contains(t, log.String(), "wake-ups from other processes are interrupted, polling meanwhile")
	require.NotContains(t, log.String(), "s3cret")
}

func TestNewListenerRefusesWhatIsNoURL(t *testing.T) {
	_, err := wake.NewListener("postgres://user:s3cret@host:port/x", wake.Config{})
	require.ErrorContains(t, err, "not a PostgreSQL URL")
	require.NotContains(t, err.Error(), "s3cret")
	_, err = wake.NewListener("sqlite://x.db", wake.Config{TablePrefix: "a-b"})
	require.ErrorContains(t, err, `table prefix "a-b"`)
}
