package browser

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/dashboard"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	transports "github.com/cqrsync/cqrsync/transport/open"
)

var silently = slog.New(slog.DiscardHandler)

// Order is the master's, and OrderCopy what the replica keeps of it.
type Order struct {
	bun.BaseModel `bun:"table:orders"`

	ID     int64 `bun:",pk"`
	Status string
}

type OrderCopy struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID     int64 `bun:",pk"`
	Status string
}

// Parcel is a model that no replica takes at first.
type Parcel struct {
	bun.BaseModel `bun:"table:parcels"`

	ID int64 `bun:",pk"`
}

// system is a master and a replica over RabbitMQ, and the dashboard of both.
type system struct {
	*testing.T
	master, copies *bun.DB
	box            *outbox.Box
	tables         *admin.Tables
	masterURL      string
	broker, queue  string
	channel        *amqp091.Channel
	proxy          *proxy
	answerer       atomic.Pointer[converge.Answerer]
	relaying       atomic.Pointer[relay.Relay]
	poison         atomic.Pointer[string] // the key that the broker is told to refuse
	page           string
}

// pace is how often both sides speak.
const pace = 200 * time.Millisecond

func start(t *testing.T) *system {
	address := dbtest.SQLiteURL(t)
	s := &system{T: t, master: dbtest.Open(t, address), masterURL: address,
		copies: dbtest.Open(t, dbtest.SQLiteURL(t)), queue: "stats-" + watermill.NewShortUUID()}
	s.useBroker()
	for _, table := range []any{(*Order)(nil), (*Parcel)(nil)} {
		_, err := s.master.NewCreateTable().Model(table).Exec(t.Context())
		require.NoError(t, err)
	}
	_, err := s.copies.NewCreateTable().Model((*OrderCopy)(nil)).Exec(t.Context())
	require.NoError(t, err)
	s.box, err = outbox.New(s.master, outbox.Config{Logger: silently})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.box.Close()) })
	require.NoError(t, outbox.Register[Order](s.box, "order"))
	require.NoError(t, outbox.Register[Parcel](s.box, "parcel"))
	require.NoError(t, s.box.Migrate(t.Context()))
	s.tables, err = admin.Open(s.master, admin.Config{})
	require.NoError(t, err)
	s.serve()
	return s
}

// useBroker has an exchange of its own, behind a proxy that can be closed.
func (s *system) useBroker() {
	address := dbtest.Address(s, dbtest.RabbitMQ)
	conn, err := amqp091.Dial(address)
	require.NoError(s, err)
	s.channel, err = conn.Channel()
	require.NoError(s, err)
	exchange := "browser-" + watermill.NewShortUUID()
	to, err := url.Parse(address)
	require.NoError(s, err)
	s.proxy = newProxy(s, to.Host)
	to.Host = s.proxy.listener.Addr().String()
	query := to.Query()
	query.Set("exchange", exchange)
	to.RawQuery = query.Encode()
	s.broker = to.String()
	s.Cleanup(func() {
		prefix := exchange + ".cqrsync.master."
		for _, name := range []string{s.queue, "dead_letter_" + s.queue, "parcels-" + s.queue, prefix + "order",
			prefix + "parcel"} {
			_, err := s.channel.QueueDelete(name, false, false, false)
			require.NoError(s, err)
		}
		require.NoError(s, s.channel.ExchangeDelete(exchange, false, false))
		require.NoError(s, conn.Close())
	})
}

// serve serves the dashboard, which lives while relays come and go.
func (s *system) serve() {
	page, err := dashboard.Handler(dashboard.Config{
		Tables: s.tables, Logger: silently,
		Diagnosis: diagnosis.Config{Patience: time.Second, Late: 20 * time.Second},
		Actions: &dashboard.Actions{
			Resync: func(ctx context.Context, queue, model string, keys []string) (int, error) {
				return s.answerer.Load().SendStates(ctx, queue, model, keys)
			},
			Backfill: func(ctx context.Context, queue, model string) error {
				return s.answerer.Load().OrderBackfill(ctx, converge.Backfill{Queue: queue, Model: model})
			},
			RetryAt: func(ctx context.Context, queue, model string) error {
				return s.answerer.Load().RetryDeadLetters(ctx, queue, model)
			},
			PurgeAt: func(ctx context.Context, queue, model string, before time.Time) error {
				return s.answerer.Load().PurgeDeadLetters(ctx, queue, model, before)
			},
		},
	})
	require.NoError(s, err)
	s.runs(page.Run)
	server := httptest.NewUnstartedServer(page)
	ctx, stop := context.WithCancel(context.Background())
	server.Config.BaseContext = func(net.Listener) context.Context { return ctx }
	server.Start()
	s.Cleanup(func() { stop(); server.Close() })
	s.page = server.URL + "/"
}

// runs starts something that runs until the test or the returned function ends it.
func (s *system) runs(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			s.Errorf("ended with %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	s.Cleanup(stop)
	return stop
}

// poisoned refuses the messages of one key, as a broker does that a policy tells to.
type poisoned struct {
	transport.BatchPublisher

	s *system
}

func (p poisoned) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	key := p.s.poison.Load()
	for i, out := range batch {
		if key != nil && out.Message.Metadata.Get("cqrs_key") == *key {
			errs[i] = errors.New("the message is larger than max_message_size")
			continue
		}
		errs[i] = p.BatchPublisher.PublishBatch(ctx, batch[i:i+1])[0]
	}
	return errs
}

func (p poisoned) Probe(ctx context.Context) error { return transport.Probe(ctx, p.BatchPublisher) }

// relay starts a relay, and what answers replicas.
func (s *system) relay(broker string) (stop func()) {
	options := transports.Options{Logger: silently, RequireQueue: true}
	publisher, err := transports.Publisher(broker, options)
	require.NoError(s, err)
	answerer, err := converge.NewAnswerer(s.box, converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return transports.Inbox(broker, options) },
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := transports.Subscriber(broker, name, options)
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil
		},
	}, converge.AnswererConfig{Pace: pace, Logger: silently})
	require.NoError(s, err)
	rel, err := relay.New(s.master, poisoned{publisher, s}, relay.Config{
		Logger: silently, PollInterval: 10 * time.Millisecond, MaxAttempts: 1, LeaseTTL: 2 * time.Second,
		RetryMin: 100 * time.Millisecond, RetryMax: time.Hour,
	})
	require.NoError(s, err)
	s.answerer.Store(answerer)
	s.relaying.Store(rel)
	stops := []func(){
		s.runs(func(ctx context.Context) error {
			diagnosis.Tell(ctx, s.tables, "the relay "+rel.ID(), func() (all []admin.Outage) {
				for _, o := range rel.Outages() {
					all = append(all, admin.Outage{What: o.What, Since: o.Since, Error: o.Err.Error()})
				}
				return all
			}, silently)
			return nil
		}),
		s.runs(answerer.Run), s.runs(rel.Run),
	}
	stop = sync.OnceFunc(func() {
		for _, end := range stops {
			end()
		}
		require.NoError(s, publisher.Close())
	})
	s.Cleanup(stop)
	return stop
}

// replica starts the replica, and its side of the conversation.
func (s *system) replica() (stop func()) {
	rep, err := replica.New(s.copies, replica.Config{Queue: s.queue, Logger: silently,
		Retry: replica.RetryPolicy{Attempts: 2, Min: 50 * time.Millisecond, Max: 100 * time.Millisecond}})
	require.NoError(s, err)
	require.NoError(s, replica.Register[OrderCopy](rep, "order"))
	require.NoError(s, rep.Migrate(s.Context()))
	publisher, err := transports.Publisher(s.broker, transports.Options{Logger: silently, RequireQueue: true})
	require.NoError(s, err)
	subscriber, err := transports.Subscriber(s.broker, s.queue, transports.Options{Logger: silently})
	require.NoError(s, err)
	reporter, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{
		Pace: pace, Logger: silently, Grace: time.Second,
	})
	require.NoError(s, err)
	stops := []func(){
		s.runs(reporter.Run),
		s.runs(func(ctx context.Context) error { return rep.Run(ctx, subscriber) }),
	}
	stop = sync.OnceFunc(func() {
		for _, end := range stops {
			end()
		}
		require.NoError(s, errors.Join(publisher.Close(), subscriber.Close()))
	})
	s.Cleanup(stop)
	return stop
}

// save writes a row of the master.
func (s *system) save(row any) {
	s.Helper()
	require.NoError(s, s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := tx.NewInsert().Model(row).Exec(ctx)
		return err
	}))
}

// arrives waits until the replica has an order.
func (s *system) arrives(id int64) {
	s.Helper()
	require.Eventually(s, func() bool {
		there, err := s.copies.NewSelect().Model(&OrderCopy{ID: id}).WherePK().Exists(context.Background())
		return err == nil && there
	}, patience, 20*time.Millisecond, "order %d does not arrive", id)
}
