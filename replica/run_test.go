package replica_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// newBroker is an in-process broker whose Publish returns when the message is acknowledged.
func newBroker(t *testing.T) *gochannel.GoChannel {
	t.Helper()
	broker := gochannel.NewGoChannel(gochannel.Config{BlockPublishUntilSubscriberAck: true}, watermill.NopLogger{})
	t.Cleanup(func() { require.NoError(t, broker.Close()) })
	return broker
}

// run runs the replica until the test ends or stop is called, and returns what Run returned.
func run(t *testing.T, rep *replica.Replica, subscriber message.Subscriber) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- rep.Run(ctx, subscriber) }()
	t.Cleanup(cancel)
	return func() error {
		cancel()
		return await(t, result)
	}
}

func await[T any](t *testing.T, c <-chan T) (value T) {
	t.Helper()
	select {
	case value = <-c:
	case <-time.After(time.Minute):
		require.Fail(t, "nothing came")
	}
	return value
}

func TestRunAppliesEveryModelAndStopsCleanly(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, broker := newFixture(t, db), newBroker(t)
		mirror[Note](f, "note")
		mirror[Account](f, "account")
		stop := run(t, f.Replica, broker)
		await(t, f.Running())

		account := of("account", envelope.Save, "1", 0, `"name":"a"`)
		require.NoError(t, broker.Publish("note", delivery(t, save(1, 0, "a")), delivery(t, account)))
		require.NoError(t, broker.Publish("account", delivery(t, save(1, 1, "b"))))
		require.Equal(t, map[int64]string{1: "b"}, f.notes(), "the envelope says the model, not the topic")
		require.Equal(t, Account{1, "a"}, one[Account](t, db, "id = 1"))
		require.NoError(t, stop())
	})
}

func TestRunFinishesWhatIsInFlight(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, broker := newFixture(t, db), newBroker(t)
		entered, leave := make(chan struct{}), make(chan struct{})
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			close(entered)
			<-leave
			return insert(ctx, tx, e)
		})
		stop := run(t, f.Replica, broker)
		await(t, f.Running())
		go func() { _ = broker.Publish("note", delivery(t, save(1, 0, "a"))) }() // the fate is asserted below
		await(t, entered)
		stopped := make(chan error, 1)
		go func() { stopped <- stop() }()
		require.Never(t, func() bool { return len(stopped) > 0 }, 10*time.Millisecond, time.Millisecond,
			"Run returned with a message in flight")
		close(leave)
		require.NoError(t, await(t, stopped))
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
	})
}

func TestFailedMessageIsTriedAgainByRun(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, broker := newFixtureWith(t, db, replica.Config{}), newBroker(t)
		var calls atomic.Int64
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			if calls.Add(1) <= 2 {
				return errors.New("not yet")
			}
			return insert(ctx, tx, e)
		})
		stop := run(t, f.Replica, broker)
		await(t, f.Running())
		require.NoError(t, broker.Publish("note", delivery(t, save(1, 0, "a"))))
		require.Eventually(t, func() bool { return f.Stats().Applied == 1 }, time.Minute, time.Millisecond)
		require.NoError(t, stop())
		require.Equal(t, replica.Stats{Applied: 1, Waiting: 2}, f.Stats())
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
	})
}

// flaky is a subscriber whose first Subscribe calls go wrong.
type flaky struct {
	message.Subscriber
	calls atomic.Int64
	first []func() (<-chan *message.Message, error)
}

func (s *flaky) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if n := s.calls.Add(1); n <= int64(len(s.first)) {
		return s.first[n-1]()
	}
	return s.Subscriber.Subscribe(ctx, topic)
}

func TestRunWaitsForTheBrokerAndSubscribesAgain(t *testing.T) {
	f, broker := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t))), newBroker(t)
	mirror[Note](f, "note")
	unavailable := func() (<-chan *message.Message, error) {
		return nil, fmt.Errorf("dial: %w", transport.ErrUnavailable)
	}
	ended := func() (<-chan *message.Message, error) {
		closed := make(chan *message.Message)
		close(closed)
		return closed, nil
	}
	subscriber := &flaky{Subscriber: broker, first: []func() (<-chan *message.Message, error){unavailable, unavailable, ended}}
	stop := run(t, f.Replica, subscriber)
	await(t, f.Running())
	require.Eventually(t, func() bool { return subscriber.calls.Load() == 4 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool {
		require.NoError(t, broker.Publish("note", delivery(t, save(1, 0, "a"))))
		return f.Stats().Applied == 1 // before the subscription exists, a gochannel drops what is published
	}, time.Minute, time.Millisecond)
	require.NoError(t, stop())
}

func TestRunReturnsWhatWaitingDoesNotCure(t *testing.T) {
	f, broker := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t))), newBroker(t)
	mirror[Note](f, "note")
	mirror[Account](f, "account")
	refused := errors.New("access refused")
	subscriber := &flaky{Subscriber: broker, first: []func() (<-chan *message.Message, error){
		func() (<-chan *message.Message, error) { return nil, refused },
	}}
	require.ErrorIs(t, f.Run(t.Context(), subscriber), refused)
}

func TestRunThatIsStoppedAtOnceIsNoError(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	ctx, stop := context.WithCancel(t.Context())
	stop()
	require.NoError(t, f.Run(ctx, newBroker(t)))
}

func TestRunStopsWhileTheBrokerIsAway(t *testing.T) {
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(db, replica.Config{
		Queue: queue, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	mirror[Note](&fixture{rep, t, db}, "note")
	asked := make(chan struct{})
	subscriber := &flaky{first: []func() (<-chan *message.Message, error){
		func() (<-chan *message.Message, error) {
			close(asked)
			return nil, transport.ErrUnavailable
		},
	}}
	stop := run(t, rep, subscriber)
	await(t, asked)
	require.NoError(t, stop())
}

func TestRunFailsAtTheStart(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		broker := newBroker(t)
		newReplica := func() *replica.Replica {
			rep, err := replica.New(db, replica.Config{Queue: queue})
			require.NoError(t, err)
			return rep
		}
		rep := newReplica()
		require.ErrorContains(t, rep.Run(t.Context(), broker), "no model is registered")

		require.NoError(t, replica.Register[Note](rep, "note"))
		require.ErrorContains(t, rep.Run(t.Context(), broker), "or call Migrate")
		require.NoError(t, rep.Migrate(t.Context()))
		require.ErrorContains(t, rep.Run(t.Context(), broker), `table notes of model "note"`)
		_, err := db.ExecContext(t.Context(), "CREATE TABLE notes (id bigint PRIMARY KEY)")
		require.NoError(t, err)
		require.ErrorContains(t, rep.Run(t.Context(), broker), "text", "a missing column is named")

		rep = newReplica()
		require.Error(t, replica.Register[Note](rep, "no.te"))
		require.Error(t, replica.Register[int](rep, "number"))
		for _, err := range []error{
			rep.Run(t.Context(), broker),
			rep.AddHandlers(newRouter(t), broker),
			rep.Handler()(delivery(t, save(1, 0, "a"))),
		} {
			require.ErrorContains(t, err, `"no.te"`)
			require.ErrorContains(t, err, `"number"`)
		}
	})
}

func newRouter(t *testing.T) *message.Router {
	t.Helper()
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	require.NoError(t, err)
	return router
}

func TestAddHandlersServesInARouter(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, broker, router := newFixture(t, db), newBroker(t), newRouter(t)
		mirror[Note](f, "note")
		mirror[Account](f, "account")
		require.NoError(t, f.AddHandlers(router, broker))
		require.ErrorContains(t, f.AddHandlers(router, broker), "already")
		require.Len(t, router.Handlers(), 2)
		require.Contains(t, router.Handlers(), "webhooks.note")

		result := make(chan error, 1)
		go func() { result <- router.Run(t.Context()) }()
		await(t, router.Running())
		require.NoError(t, broker.Publish("note", delivery(t, save(1, 0, "a"))))
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		require.NoError(t, router.Close())
		require.NoError(t, await(t, result))
	})
}

// A broker that hands out a window fills the transactions, in Run and in a Router.
func TestWindowIsAppliedTogether(t *testing.T) {
	for name, start := range map[string]func(t *testing.T, f *fixture, subscriber message.Subscriber) (stop func() error){
		"Run": func(t *testing.T, f *fixture, subscriber message.Subscriber) func() error {
			stop := run(t, f.Replica, subscriber)
			await(t, f.Running())
			return stop
		},
		"Router": func(t *testing.T, f *fixture, subscriber message.Subscriber) func() error {
			router := newRouter(t)
			require.NoError(t, f.AddHandlers(router, subscriber))
			result := make(chan error, 1)
			go func() { result <- router.Run(t.Context()) }()
			await(t, router.Running())
			return func() error { return errors.Join(router.Close(), await(t, result)) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				const messages = 300
				broker := memory.New()
				subscriber, publisher := broker.Subscriber(queue), broker.Publisher()
				require.NoError(t, subscriber.SubscribeInitialize("note"))
				f := newFixture(t, db)
				mirror[Note](f, "note")
				for id := range int64(messages) {
					require.NoError(t, publisher.Publish("note", delivery(t, save(id, 0, "a"))))
				}
				stop := start(t, f, subscriber)
				require.Eventually(t, func() bool { return f.Stats().Applied == messages }, time.Minute, time.Millisecond)
				require.Less(t, f.Transactions(), int64(messages/3))
				require.NoError(t, stop())
				require.NoError(t, subscriber.Close())
				require.Equal(t, replica.Stats{Applied: messages}, f.Stats())
			})
		})
	}
}

// inBatches counts what a BatchSubscriber is told.
type inBatches struct {
	transport.BatchSubscriber
	asked                    chan asked // nil: nobody wants to know
	settled, acked, returned atomic.Int64
}

func (s *inBatches) SubscribeBatch(
	ctx context.Context, topics []string, window int,
) (transport.Subscription, error) {
	if s.asked != nil {
		s.asked <- asked{topics, window}
	}
	sub, err := s.BatchSubscriber.SubscribeBatch(ctx, topics, window)
	return transport.Subscription{Messages: sub.Messages, Settle: func(acked, returned []*message.Message) {
		s.settled.Add(1)
		s.acked.Add(int64(len(acked)))
		s.returned.Add(int64(len(returned)))
		sub.Settle(acked, returned)
	}}, err
}

// asked is a call of SubscribeBatch.
type asked struct {
	topics []string
	window int
}

func TestAnyNumberOfModelsTakesOneSubscriptionPerQueue(t *testing.T) {
	for name, test := range map[string]struct {
		queue string
		want  int // subscriptions
	}{
		"one queue":              {queue, 1},
		"a queue for each topic": {"", 2_100},
	} {
		t.Run(name, func(t *testing.T) {
			broker := memory.New()
			subscriber := &inBatches{BatchSubscriber: broker.Subscriber(test.queue), asked: make(chan asked, 2_100)}
			rep, err := replica.New(nil, replica.Config{
				Queue: queue, Window: 300, DeadLetters: broker.Publisher(), Logger: slog.New(slog.DiscardHandler),
			})
			require.NoError(t, err)
			got := make(chan string, 2)
			for i := range 2_100 {
				require.NoError(t, replica.HandleFunc(rep, fmt.Sprintf("model%d", i),
					func(_ context.Context, event replica.Event[Note]) error {
						got <- event.Model
						return nil
					}))
			}
			stop := run(t, rep, subscriber)
			await(t, rep.Running())
			require.Len(t, subscriber.asked, test.want)
			topics := map[string]bool{}
			for range test.want {
				asked := <-subscriber.asked
				require.Positive(t, asked.window)
				require.LessOrEqual(t, asked.window, max(300/test.want, 1), "the window is shared out")
				for _, topic := range asked.topics {
					topics[topic] = true
				}
			}
			require.Len(t, topics, 2_100)
			for _, model := range []string{"model0", "model2099"} {
				require.NoError(t, broker.Publisher().Publish(model, delivery(t, of(model, envelope.Save, "1", 0, `"text":"a"`))))
				require.Equal(t, model, await(t, got))
			}
			require.NoError(t, stop())
			require.NoError(t, subscriber.Close())
		})
	}
}

// windowsOnly is a subscriber that takes one topic at a time.
type windowsOnly struct{ transport.WindowSubscriber }

func TestRunSubscribesToEachModelWhereASubscriberTakesOneTopicAtATime(t *testing.T) {
	broker := memory.New()
	subscriber := windowsOnly{broker.Subscriber(queue)}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	mirror[Account](f, "account")
	stop := run(t, f.Replica, subscriber)
	await(t, f.Running())
	account := of("account", envelope.Save, "1", 0, `"name":"a"`)
	require.NoError(t, broker.Publisher().Publish("note", delivery(t, save(1, 0, "a"))))
	require.NoError(t, broker.Publisher().Publish("account", delivery(t, account)))
	require.Eventually(t, func() bool { return f.Stats().Applied == 2 }, time.Minute, time.Millisecond)
	require.NoError(t, stop())
	require.NoError(t, subscriber.Close())
}

func TestAcksOfATransactionComeTogether(t *testing.T) {
	const messages = 300
	broker := memory.New()
	subscriber := &inBatches{BatchSubscriber: broker.Subscriber(queue)}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	stop := run(t, f.Replica, subscriber)
	await(t, f.Running())
	for id := range int64(messages) {
		require.NoError(t, broker.Publisher().Publish("note", delivery(t, save(id, 0, "a"))))
	}
	require.Eventually(t, func() bool { return f.Stats().Applied == messages }, time.Minute, time.Millisecond)
	require.NoError(t, stop())
	require.NoError(t, subscriber.Close())
	require.EqualValues(t, messages, subscriber.acked.Load())
	// What is on its way while the window is fitted to the size of the messages goes back, each by itself.
	require.Equal(t, f.Transactions(), subscriber.settled.Load()-subscriber.returned.Load())
}

func TestWhatCannotBeKeptGoesBackToTheBroker(t *testing.T) {
	broker := memory.New()
	subscriber := &inBatches{BatchSubscriber: broker.Subscriber(queue)}
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	_, err := f.db.ExecContext(t.Context(), "ALTER TABLE replica_dead_letters RENAME TO elsewhere")
	require.NoError(t, err)
	stop := run(t, f.Replica, subscriber)
	await(t, f.Running())
	poison := message.NewMessage("poison", []byte("{"))
	require.NoError(t, broker.Publisher().Publish("note", poison, delivery(t, save(1, 0, "a"))))
	require.Eventually(t, func() bool { return f.Stats().Applied == 1 }, time.Minute, time.Millisecond)
	require.NoError(t, stop())
	require.EqualValues(t, 1, subscriber.acked.Load())
	require.EqualValues(t, 1, subscriber.returned.Load())
	messages, err := subscriber.Subscribe(t.Context(), "note")
	require.NoError(t, err)
	require.Equal(t, poison.UUID, await(t, messages).UUID)
	require.NoError(t, subscriber.Close())
}
