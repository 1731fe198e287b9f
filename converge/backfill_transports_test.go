package converge_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/open"
)

// A replica is filled over every broker.
func TestABackfillOverEveryTransport(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		newOverBroker(t, "sqlite://"+filepath.Join(t.TempDir(), "broker.db"), "stats").isFilled()
	})
	t.Run("memory", func(t *testing.T) {
		newOverBroker(t, "memory:"+watermill.NewShortUUID(), "stats").isFilled()
	})
	t.Run("amqp", func(t *testing.T) {
		broker, queue, _ := rabbit(t)
		newOverBroker(t, broker, queue).isFilled()
	})
}

// A queue that vanishes takes along what was sent to it, so all of it is sent again.
func TestAQueueThatVanishesMeanwhileIsFilledAnew(t *testing.T) {
	broker, queue, remove := rabbit(t)
	o := newOverBroker(t, broker, queue)
	o.before(3, 1500)
	stop := o.fills()
	o.patiently("some of it is there", func() bool {
		n, err := o.copies.NewSelect().Model((*OrderCopy)(nil)).Count(t.Context())
		require.NoError(t, err)
		return n > 0
	})
	stop()
	remove()
	o.patiently("it is missed", func() bool { return o.answerer.Answered().VanishedQueues > 0 })
	o.says("a queue is dropped")
	o.fills()
	o.patiently("both models have come", func() bool { return o.done(queue, 2) })
	o.patiently("all is there", o.equal)
}

// rabbit returns the URL of an exchange of its own, the name of a queue, and what removes that.
func rabbit(t *testing.T) (broker, queue string, remove func()) {
	address := dbtest.Address(t, dbtest.RabbitMQ)
	exchange, queue := "exchange-"+watermill.NewShortUUID(), "queue-"+watermill.NewShortUUID()
	conn, err := amqp091.Dial(address)
	require.NoError(t, err)
	channel, err := conn.Channel()
	require.NoError(t, err)
	t.Cleanup(func() {
		prefix := exchange + ".cqrsync.master."
		for _, name := range []string{queue, "dead_letter_" + queue, prefix + "customer", prefix + "order"} {
			_, err := channel.QueueDelete(name, false, false, false)
			require.NoError(t, err)
		}
		require.NoError(t, channel.ExchangeDelete(exchange, false, false))
		require.NoError(t, conn.Close())
	})
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + "exchange=" + exchange, queue, func() {
		_, err := channel.QueueDelete(queue, false, false, false)
		require.NoError(t, err)
	}
}

// overBroker is a system over a broker with a URL.
type overBroker struct {
	*system
	url, queue string
	answerer   *converge.Answerer
}

func newOverBroker(t *testing.T, url, queue string) *overBroker {
	o := &overBroker{
		system: newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t))),
		url:    url, queue: queue,
	}
	options := open.Options{Logger: quiet}
	publisher, err := open.Publisher(url, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, publisher.Close()) })
	o.answerer, err = converge.NewAnswerer(o.box, converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return open.Inbox(url, options) },
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(url, name, options)
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil
		},
	}, converge.AnswererConfig{Pace: pace, Logger: quiet})
	require.NoError(t, err)
	rel, err := relay.New(o.master, publisher, relay.Config{
		Logger: quiet, PollInterval: 10 * time.Millisecond, Before: o.answerer.KeepQueues,
	})
	require.NoError(t, err)
	o.runs(rel.Run)
	o.runs(o.answerer.Run)
	return o
}

// fills starts a process of the replica.
func (o *overBroker) fills() (stop func()) {
	rep := o.replica(o.queue)
	publisher, err := open.Publisher(o.url, open.Options{Logger: quiet, RequireQueue: true})
	require.NoError(o, err)
	o.Cleanup(func() { require.NoError(o, publisher.Close()) })
	subscriber, err := open.Subscriber(o.url, o.queue, open.Options{Logger: quiet})
	require.NoError(o, err)
	o.Cleanup(func() { require.NoError(o, subscriber.Close()) })
	reporter, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{
		Pace: pace, Logger: quiet, Backfill: converge.IfEmpty,
	})
	require.NoError(o, err)
	stopReplica := o.runs(func(ctx context.Context) error { return rep.Run(ctx, subscriber) })
	stopReporter := o.runs(reporter.Run)
	return func() { stopReporter(); stopReplica() }
}

// isFilled fills a replica while the master goes on.
func (o *overBroker) isFilled() {
	o.before(10, 500)
	o.fills()
	o.save(&Order{ID: 1, CustomerID: 1, Status: "new"}, &Order{ID: 9999, CustomerID: 1, Status: "new"})
	o.patiently("both models have come", func() bool { return o.done(o.queue, 2) })
	o.patiently("all is there", o.equal)
	require.Zero(o, o.answerer.Answered().VanishedQueues)
}
