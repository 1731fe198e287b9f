package transports_test

import (
	"context"
	stdsql "database/sql"
	"maps"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/message"
	_ "github.com/jackc/pgx/v5/stdlib" // the driver pgx
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/tests/natsserver"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// publishes runs a relay with any publisher.
func (c *conversation) publishes(publisher message.Publisher) {
	rel, err := relay.New(c.master, publisher, relay.Config{
		Logger: discard, PollInterval: 10 * time.Millisecond, RetryMin: 50 * time.Millisecond,
	})
	require.NoError(c, err)
	c.runs(rel.Run)
}

// copiesOf runs a replica with any subscriber and a database of its own.
func (c *conversation) copiesOf(
	subscriber message.Subscriber,
) (copies *bun.DB, rep *replica.Replica) {
	copies = dbtest.Open(c, dbtest.SQLiteURL(c))
	_, err := copies.NewCreateTable().Model((*told)(nil)).Exec(c.Context())
	require.NoError(c, err)
	rep, err = replica.New(copies, replica.Config{Queue: c.queue, Logger: discard})
	require.NoError(c, err)
	require.NoError(c, replica.Register[told](rep, "tale"))
	require.NoError(c, rep.Migrate(c.Context()))
	c.runs(func(ctx context.Context) error { return rep.Run(ctx, subscriber) })
	select {
	case <-rep.Running():
	case <-time.After(patience):
		require.FailNow(c, "the replica does not run")
	}
	return copies, rep
}

// rewrite writes rows, changes each, and deletes some.
func (c *conversation) rewrite(from, to int64) {
	c.Helper()
	c.write(from, to)
	for id := from; id <= to; id++ {
		require.NoError(c, c.box.RunInTx(c.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			if id%5 == 0 {
				_, err := tx.NewDelete().Model(&tale{ID: id}).WherePK().Exec(ctx)
				return err
			}
			_, err := tx.NewUpdate().Model(&tale{ID: id, Text: "again"}).WherePK().Exec(ctx)
			return err
		}))
	}
}

func (c *conversation) texts(db *bun.DB) map[int64]string {
	var rows []told
	require.NoError(c, db.NewSelect().Model(&rows).Scan(c.Context()))
	texts := map[int64]string{}
	for _, row := range rows {
		texts[row.ID] = row.Text
	}
	return texts
}

func (c *conversation) becomesEqual(copies ...*bun.DB) {
	c.Helper()
	for _, db := range copies {
		c.eventually("equal", func() bool { return maps.Equal(c.texts(c.master), c.texts(db)) })
	}
}

// One master has replicas on two brokers. While one broker is away nothing leaves, and afterwards
// both have all; what is sent to one queue reaches it on whichever it is.
func TestOneMasterOnTwoBrokers(t *testing.T) {
	server := natsserver.New(t)
	options := open.Options{Logger: discard, RequireQueue: true}
	subscriber := func(url, queue string) message.Subscriber {
		sub, err := open.Subscriber(url, queue, options)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, sub.Close()) })
		return sub
	}
	publisher := func(url string) message.Publisher {
		pub, err := open.Publisher(url, options)
		require.NoError(t, err)
		return pub
	}
	file := dbtest.SQLiteURL(t)
	stats := &conversation{T: t, queue: "stats"}
	stats.begin()
	search := &conversation{T: t, queue: "search"}
	onNATS, _ := stats.copiesOf(subscriber(server.URL()+"?ack_wait=2s", "stats"))
	inFile, rep := search.copiesOf(subscriber(file, "search"))
	both := transport.All(publisher(server.URL()), publisher(file))
	t.Cleanup(func() { require.NoError(t, both.Close()) })
	stats.publishes(both)
	stats.rewrite(1, 40)
	stats.becomesEqual(onNATS, inFile)
	server.Stop()
	stats.rewrite(41, 80)
	server.Start(t)
	stats.becomesEqual(onNATS, inFile)

	_, err := inFile.NewDelete().Model((*told)(nil)).Where("id < 20").Exec(t.Context())
	require.NoError(t, err)
	_, err = operate.Sync(t.Context(), stats.box, "tale", operate.SyncOptions{
		To: outbox.SyncOptions{Queue: rep.Queue(), Force: true},
	})
	require.NoError(t, err)
	stats.becomesEqual(onNATS, inFile)
}

// Any publisher and subscriber of Watermill's carries cqrsync's messages: here those of
// watermill-sql, with PostgreSQL as the broker.
func TestWatermillSQLCarriesMessages(t *testing.T) {
	// Not of package database, whose connections send bytes as bytes, which are no JSON.
	db, err := stdsql.Open("pgx", dbtest.PostgresURL(t))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	beginner := sql.BeginnerFromStdSQL(db)
	subscriber := func() message.Subscriber {
		sub, err := sql.NewSubscriber(beginner, sql.SubscriberConfig{
			ConsumerGroup: "stats", SchemaAdapter: sql.DefaultPostgreSQLSchema{},
			OffsetsAdapter: sql.DefaultPostgreSQLOffsetsAdapter{}, InitializeSchema: true,
			PollInterval: 10 * time.Millisecond,
		}, watermill.NewSlogLogger(discard))
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, sub.Close()) })
		return sub
	}
	publisher, err := sql.NewPublisher(beginner, sql.PublisherConfig{
		SchemaAdapter: sql.DefaultPostgreSQLSchema{}, AutoInitializeSchema: true,
	}, watermill.NewSlogLogger(discard))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, publisher.Close()) })
	c := &conversation{T: t, queue: "stats"}
	c.begin()
	c.publishes(publisher)
	copies, rep := c.copiesOf(subscriber())
	c.rewrite(1, 60)
	c.becomesEqual(copies)
	require.Zero(t, rep.Stats().DeadLettered)
}
