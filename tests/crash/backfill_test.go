package crash_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// The environment of a side of a backfill: its database, the broker, and after how many messages or
// statements it waits to be killed; 0 is never.
const (
	fillMasterURL  = "CQRSYNC_CRASH_FILL_MASTER"
	fillReplicaURL = "CQRSYNC_CRASH_FILL_REPLICA"
	fillBroker     = "CQRSYNC_CRASH_FILL_BROKER"
	fillStop       = "CQRSYNC_CRASH_FILL_STOP"
)

const fillQueue = "stats"

// article is sent, and kept under the same name.
type article struct {
	bun.BaseModel `bun:"table:articles"`

	ID   int64 `bun:",pk"`
	Name string
}

var silently = slog.New(slog.DiscardHandler)

// runFilling is one side of a backfill, until it is killed.
func runFilling(url, broker, stop string, side func(ctx context.Context, db *bun.DB, broker string, stop *countdown) error) {
	err := func() error {
		db, err := database.Open(url)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(stop)
		if err != nil {
			return err
		}
		var left countdown
		left.Store(int64(n))
		return side(context.Background(), db, broker, &left)
	}()
	fmt.Println("error:", err)
}

// countdown waits to be killed when it has come to its end.
type countdown struct{ atomic.Int64 }

func (c *countdown) spend(n int) {
	if left := c.Add(int64(-n)); left <= 0 && left+int64(n) > 0 {
		fmt.Println("here")
		select {}
	}
}

// killedPublisher is killed between two messages, of those that count.
type killedPublisher struct {
	transport.BatchPublisher

	counts func(transport.Outgoing) bool
	stop   *countdown
}

func (p killedPublisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := p.BatchPublisher.PublishBatch(ctx, batch)
	for _, out := range batch {
		if p.counts(out) {
			p.stop.spend(1)
		}
	}
	return errs
}

func anyMessage(transport.Outgoing) bool { return true }

func fillingMaster(ctx context.Context, db *bun.DB, broker string, stop *countdown) error {
	return runMaster(ctx, db, broker, converge.AnswererConfig{Pace: time.Second},
		killedPublisher{counts: anyMessage, stop: stop})
}

// runMaster is the master of the articles. killed says where it is.
func runMaster(
	ctx context.Context, db *bun.DB, broker string, config converge.AnswererConfig, killed killedPublisher,
) error {
	box, err := outbox.New(db, outbox.Config{Logger: silently})
	if err != nil {
		return err
	}
	if err := outbox.Register[article](box, "article"); err != nil {
		return err
	}
	options := open.Options{Logger: silently}
	publisher, err := open.Publisher(broker, options)
	if err != nil {
		return err
	}
	killed.BatchPublisher = transport.Batch(publisher)
	publisher, config.Logger = killed, silently
	answerer, err := converge.NewAnswerer(box, converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return open.Inbox(broker, options) },
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(broker, name, options)
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil
		},
	}, config)
	if err != nil {
		return err
	}
	rel, err := relay.New(db, publisher, relay.Config{
		Logger: silently, LeaseTTL: lanesLease, Before: answerer.KeepQueues,
	})
	if err != nil {
		return err
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return rel.Run(ctx) })
	both.Go(func() error { return answerer.Run(ctx) })
	return both.Wait()
}

// killedStatements are counted where they write what was applied.
type killedStatements struct{ stop *countdown }

func (killedStatements) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context {
	return ctx
}

func (k killedStatements) AfterQuery(_ context.Context, event *bun.QueryEvent) {
	if strings.Contains(event.Query, "replica_revisions") && !strings.HasPrefix(event.Query, "SELECT") {
		k.stop.spend(1)
	}
}

func fillingReplica(ctx context.Context, db *bun.DB, broker string, stop *countdown) error {
	return runReplica(ctx, db.WithQueryHook(killedStatements{stop}), broker, converge.ReporterConfig{
		Pace: time.Second, Backfill: converge.IfEmpty,
	}, killedPublisher{counts: anyMessage, stop: new(countdown)})
}

// runReplica is the replica of the articles. killed says after which of its reports it is.
func runReplica(
	ctx context.Context, db *bun.DB, broker string, config converge.ReporterConfig, killed killedPublisher,
) error {
	rep, err := replica.New(db, replica.Config{Queue: fillQueue, Logger: silently, Batch: 100})
	if err != nil {
		return err
	}
	if err := replica.Register[article](rep, "article"); err != nil {
		return err
	}
	reports, err := open.Publisher(broker, open.Options{Logger: silently, RequireQueue: true})
	if err != nil {
		return err
	}
	killed.BatchPublisher = transport.Batch(reports)
	config.Logger = silently
	reporter, err := converge.NewReporter(rep, killed, config)
	if err != nil {
		return err
	}
	subscriber, err := open.Subscriber(broker, fillQueue, open.Options{Logger: silently})
	if err != nil {
		return err
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error { return rep.Run(ctx, subscriber) })
	both.Go(func() error { return reporter.Run(ctx) })
	return both.Wait()
}

// Master and replica are killed in the middle of a backfill, while rows before and behind it change.
func TestABackfillGoesOnWhereItWasKilled(t *testing.T) {
	t.Parallel()
	for kind, newURL := range dbtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			fillsThoughKilled(t, newURL(t), newURL(t))
		})
	}
}

const articles = 3000

func fillsThoughKilled(t *testing.T, masterURL, replicaURL string) {
	master, copies := dbtest.Open(t, masterURL), dbtest.Open(t, replicaURL)
	box := prepareFilling(t, master, copies)
	broker := "sqlite://" + filepath.Join(t.TempDir(), "broker.db")

	var killing errgroup.Group
	run := func(side, url string, stops ...int) {
		killing.Go(func() error {
			for _, stop := range stops {
				killProcess(t, fmt.Sprintf("%s at %d", side, stop), side+"="+url, fillBroker+"="+broker,
					fillStop+"="+strconv.Itoa(stop))
			}
			return nil
		})
	}
	run(fillMasterURL, masterURL, 400, 1100)
	run(fillReplicaURL, replicaURL, 3, 5, 8)
	stopWriting := writeArticles(t, master, box)
	require.NoError(t, killing.Wait())
	runAside(t, fillMasterURL+"="+masterURL, fillBroker+"="+broker, fillStop+"=0")
	runAside(t, fillReplicaURL+"="+replicaURL, fillBroker+"="+broker, fillStop+"=0")
	require.Eventually(t, func() bool {
		n, err := copies.NewSelect().TableExpr("replica_backfills").Where("done_at IS NOT NULL").Count(t.Context())
		return err == nil && n == 1
	}, 5*time.Minute, 50*time.Millisecond, "all of it has come")
	stopWriting()
	var want, have []article
	require.NoError(t, master.NewSelect().Model(&want).OrderExpr("id").Scan(t.Context()))
	require.Eventually(t, func() bool {
		have = nil
		err := copies.NewSelect().Model(&have).OrderExpr("id").Scan(t.Context())
		return err == nil && len(have) == len(want) && (len(have) == 0 || equalArticles(want, have))
	}, 2*time.Minute, 50*time.Millisecond, "they are equal")
	var ids int
	require.NoError(t, master.NewSelect().TableExpr("outbox_backfills").ColumnExpr("count(*)").
		Where("finished_at IS NOT NULL").Scan(t.Context(), &ids))
	require.Equal(t, 1, ids)
}

func equalArticles(want, have []article) bool {
	for i := range want {
		if want[i] != have[i] {
			return false
		}
	}
	return true
}

// prepareFilling makes the tables, with rows that were at the master before cqrsync.
func prepareFilling(t *testing.T, master, copies *bun.DB) *outbox.Box {
	for _, db := range []*bun.DB{master, copies} {
		_, err := db.NewCreateTable().Model((*article)(nil)).Exec(t.Context())
		require.NoError(t, err)
	}
	rows := make([]article, articles)
	for i := range rows {
		rows[i] = article{ID: int64(i + 1), Name: "old"}
	}
	_, err := master.NewInsert().Model(&rows).Exec(t.Context())
	require.NoError(t, err)
	box, err := outbox.New(master, outbox.Config{Logger: silently})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, box.Close()) })
	require.NoError(t, outbox.Register[article](box, "article"))
	require.NoError(t, box.Migrate(t.Context()))
	rep, err := replica.New(copies, replica.Config{Queue: fillQueue, Logger: silently})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	return box
}

// writeArticles changes, adds and deletes rows until it is stopped, or has done so often: a machine
// that is slower than the writing would never come to an end of what waits.
func writeArticles(t *testing.T, db *bun.DB, box *outbox.Box) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		var err error
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := int64(0); err == nil && i < articles/10; i++ {
			select {
			case <-tick.C:
				err = box.RunInTx(context.WithoutCancel(ctx), nil, func(ctx context.Context, tx bun.Tx) error {
					return changeArticles(ctx, tx, i)
				})
			case <-ctx.Done():
				ended <- nil
				return
			}
		}
		ended <- err
	}()
	return func() {
		cancel()
		require.NoError(t, <-ended)
	}
}

func changeArticles(ctx context.Context, tx bun.Tx, i int64) error {
	changed := article{ID: 1 + i*17%articles, Name: fmt.Sprint("new ", i)}
	_, err := tx.NewUpdate().Model(&changed).WherePK().Exec(ctx)
	if err == nil {
		_, err = tx.NewInsert().Model(&article{ID: 10*articles + i, Name: "added"}).Exec(ctx)
	}
	if err == nil {
		_, err = tx.NewDelete().Model(&article{ID: 1 + i*29%articles}).WherePK().Exec(ctx)
	}
	return err
}

// runAside runs a process until the test ends.
func runAside(t *testing.T, environment ...string) {
	path, err := os.Executable()
	require.NoError(t, err)
	process := exec.Command(path)
	process.Env = append(os.Environ(), environment...)
	process.Stderr, process.Stdout = os.Stderr, io.Discard
	require.NoError(t, process.Start())
	t.Cleanup(func() {
		require.NoError(t, process.Process.Kill())
		var exit *exec.ExitError
		if err := process.Wait(); !errors.As(err, &exit) {
			require.NoError(t, err)
		}
	})
}
