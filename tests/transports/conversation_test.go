package transports_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/open"
)

// tale is a model of a master, and told its copy.
type tale struct {
	bun.BaseModel `bun:"table:tales"`
	outbox.Tracked
	ID   int64 `bun:",pk"`
	Text string
}

type told struct {
	bun.BaseModel `bun:"table:tales"`
	ID            int64 `bun:",pk"`
	Text          string
}

var discard = slog.New(slog.DiscardHandler)

// conversation is a master and a replica over a broker with a URL, of which package open knows.
type conversation struct {
	*testing.T
	url, queue     string
	master, copies *bun.DB
	box            *outbox.Box
	answerer       *converge.Answerer
}

// converse fills a replica that comes later than what was written, carries what is written then,
// has the replica known to its master, and makes again a queue that remove removes.
func converse(t *testing.T, url string, remove func(queue string) error) {
	c := &conversation{T: t, url: url, queue: unique("stats")}
	c.begin()
	const early = 300
	c.write(1, early)
	c.relays()
	stop := c.replicates()
	c.write(early+1, early+50)
	c.eventually("all is there", func() bool { return c.count() == early+50 })
	c.eventually("the master knows who asked", func() bool { return c.answerer.Answered().Reports > 0 })
	stop()
	require.NoError(t, remove(c.queue))
	c.eventually("the queue is missed", func() bool { return c.answerer.Answered().VanishedQueues > 0 })
	c.write(early+51, early+60)
	c.replicates()
	c.eventually("all is there again", func() bool { return c.count() == early+60 })
}

func (c *conversation) begin() {
	c.master, c.copies = dbtest.Open(c, dbtest.SQLiteURL(c)), dbtest.Open(c, dbtest.SQLiteURL(c))
	_, err := c.master.NewCreateTable().Model((*tale)(nil)).Exec(c.Context())
	require.NoError(c, err)
	_, err = c.copies.NewCreateTable().Model((*told)(nil)).Exec(c.Context())
	require.NoError(c, err)
	c.box, err = outbox.New(c.master, outbox.Config{Logger: discard})
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, c.box.Close()) })
	require.NoError(c, outbox.Register[tale](c.box, "tale"))
	require.NoError(c, c.box.Migrate(c.Context()))
}

func (c *conversation) write(from, to int64) {
	require.NoError(c, c.box.RunInTx(c.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		for id := from; id <= to; id++ {
			if _, err := tx.NewInsert().Model(&tale{ID: id, Text: "once"}).Exec(ctx); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (c *conversation) count() int64 {
	n, err := c.copies.NewSelect().Model((*told)(nil)).Count(c.Context())
	require.NoError(c, err)
	return n
}

// often is what the parts say to each other by, for a test.
const often = 100 * time.Millisecond

func (c *conversation) relays() {
	options := open.Options{Logger: discard}
	publisher, err := open.Publisher(c.url, options)
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, publisher.Close()) })
	c.answerer, err = converge.NewAnswerer(c.box, converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return open.Inbox(c.url, options) },
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(c.url, name, options)
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil
		},
	}, converge.AnswererConfig{
		Queues: map[string][]string{c.queue: nil}, Pace: often, Logger: discard,
	})
	require.NoError(c, err)
	rel, err := relay.New(c.master, publisher, relay.Config{
		Logger: discard, PollInterval: 10 * time.Millisecond, Before: c.answerer.KeepQueues,
	})
	require.NoError(c, err)
	c.runs(rel.Run, c.answerer.Run)
}

func (c *conversation) replicates() (stop func()) {
	rep, err := replica.New(c.copies, replica.Config{Queue: c.queue, Logger: discard})
	require.NoError(c, err)
	require.NoError(c, replica.Register[told](rep, "tale"))
	require.NoError(c, rep.Migrate(c.Context()))
	publisher, err := open.Publisher(c.url, open.Options{Logger: discard, RequireQueue: true})
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, publisher.Close()) })
	subscriber, err := open.Subscriber(c.url, c.queue, open.Options{Logger: discard})
	require.NoError(c, err)
	c.Cleanup(func() { require.NoError(c, subscriber.Close()) })
	reporter, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{
		Pace: often, Logger: discard, Backfill: converge.IfEmpty,
	})
	require.NoError(c, err)
	return c.runs(func(ctx context.Context) error { return rep.Run(ctx, subscriber) }, reporter.Run)
}

// runs starts what ends with the test, or stop.
func (c *conversation) runs(parts ...func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Context()))
	var running sync.WaitGroup
	for _, run := range parts {
		running.Go(func() {
			if err := run(ctx); err != nil && ctx.Err() == nil {
				c.Error(err)
			}
		})
	}
	stop = func() { cancel(); running.Wait() }
	c.Cleanup(stop)
	return stop
}

func (c *conversation) eventually(what string, done func() bool) {
	c.Helper()
	require.Eventually(c, done, 2*time.Minute, 20*time.Millisecond, what)
}

// The conversation of a master and its replica needs no more of a broker than package open has.
func TestConversationOverRabbitMQ(t *testing.T) {
	r := newRabbit(t)
	r.queues[r.exchange+".cqrsync.master.tale"] = true
	converse(t, r.url(t, ""), func(queue string) error {
		r.queues["dead_letter_"+queue], r.queues[queue] = true, true
		_, err := r.channel(t).QueueDelete(queue, false, false, false)
		return err
	})
}
