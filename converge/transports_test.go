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
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// The conversation works over every broker: a replica that comes second finds what was published
// before it came, is known, and its queue is made again when it vanishes.
func TestOverEveryTransport(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		converses(t, "sqlite://"+filepath.Join(t.TempDir(), "broker.db"), "stats", func() bool { return false })
	})
	t.Run("memory", func(t *testing.T) {
		converses(t, "memory:"+watermill.NewShortUUID(), "stats", func() bool { return false })
	})
	t.Run("amqp", func(t *testing.T) {
		address := dbtest.Address(t, dbtest.RabbitMQ)
		exchange, queue := "exchange-"+watermill.NewShortUUID(), "queue-"+watermill.NewShortUUID()
		conn, err := amqp091.Dial(address)
		require.NoError(t, err)
		channel, err := conn.Channel()
		require.NoError(t, err)
		t.Cleanup(func() {
			for _, name := range []string{queue, "dead_letter_" + queue, exchange + ".cqrsync.master.customer"} {
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
		converses(t, address+separator+"exchange="+exchange, queue, func() bool {
			_, err := channel.QueueDelete(queue, false, false, false)
			require.NoError(t, err)
			return true
		})
	})
}

// converses lets a master and a replica talk over a broker. vanish removes the replica's queue, if it
// can.
func converses(t *testing.T, broker, queue string, vanish func() bool) {
	master, copies := dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t))
	s := &system{T: t, master: master, copies: copies}
	_, err := master.NewCreateTable().Model((*Customer)(nil)).Exec(t.Context())
	require.NoError(t, err)
	_, err = copies.NewCreateTable().Model((*Customer)(nil)).Exec(t.Context())
	require.NoError(t, err)
	s.box, err = outbox.New(master, outbox.Config{Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.box.Close()) })
	require.NoError(t, outbox.Register[Customer](s.box, "customer"))
	require.NoError(t, s.box.Migrate(t.Context()))
	tables, err := admin.Open(master, admin.Config{})
	require.NoError(t, err)
	s.admin, err = tables.Master(t.Context())
	require.NoError(t, err)

	options := open.Options{Logger: quiet}
	publisher, err := open.Publisher(broker, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, publisher.Close()) })
	answerer, err := converge.NewAnswerer(s.box, converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return open.Inbox(broker, options) },
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(broker, name, options)
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil
		},
	}, converge.AnswererConfig{Queues: map[string][]string{queue: nil}, Pace: pace, Logger: quiet})
	require.NoError(t, err)
	s.save(&Customer{ID: 1, Name: "a"})
	rel, err := relay.New(master, publisher, relay.Config{
		Logger: quiet, PollInterval: 10 * time.Millisecond, Before: answerer.KeepQueues,
	})
	require.NoError(t, err)
	s.runs(rel.Run)
	s.runs(answerer.Run)
	s.eventually("it is published, to a replica that has not come yet", func() bool {
		st, err := s.admin.Status(t.Context())
		require.NoError(t, err)
		return st.Unsent == 0
	})

	rep, err := replica.New(copies, replica.Config{Queue: queue, Logger: quiet})
	require.NoError(t, err)
	require.NoError(t, replica.Register[Customer](rep, "customer"))
	require.NoError(t, rep.Migrate(t.Context()))
	reports, err := open.Publisher(broker, open.Options{Logger: quiet, RequireQueue: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reports.Close()) })
	reporter, err := converge.NewReporter(rep, reports, converge.ReporterConfig{Pace: pace, Logger: quiet})
	require.NoError(t, err)
	subscriber, err := open.Subscriber(broker, queue, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, subscriber.Close()) })
	stopReplica := s.runs(func(ctx context.Context) error { return rep.Run(ctx, subscriber) })
	s.runs(reporter.Run)
	s.eventually("it came", func() bool { return s.has(&Customer{ID: 1}) })
	s.eventually("the replica is known, and not late", func() bool {
		known := s.known(queue)
		return known != nil && known.LagSeconds != nil && *known.LagSeconds < 1
	})

	stopReplica() // else it makes its queue again itself
	if !vanish() {
		return
	}
	s.eventually("the queue is missed and made again", func() bool { return answerer.Answered().VanishedQueues > 0 })
	s.eventually("the registry says so", func() bool { return s.known(queue).Vanished != nil })
	s.eventually("it is there", func() bool {
		there, err := subscriber.(transport.QueueFinder).HasQueue(t.Context())
		return err == nil && there
	})
}
