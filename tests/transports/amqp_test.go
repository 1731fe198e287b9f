package transports_test

import (
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

func TestAMQP(t *testing.T) {
	r := newRabbit(t)
	conform(t, broker{
		publisher: func(t testing.TB) transport.BatchPublisher { return r.publisher(t, "") },
		subscriber: func(t testing.TB, queue string) transport.WindowSubscriber {
			return r.subscriber(t, queue)
		},
		required: func(t testing.TB) transport.BatchPublisher { return r.publisher(t, "mandatory=true") },
		inboxes:  func(t testing.TB) transport.WindowSubscriber { return r.inbox(t, "") },
		features: tests.Features{
			ConsumerGroups:                      true,
			GuaranteedOrder:                     true,
			GuaranteedOrderWithSingleSubscriber: true,
			Persistent:                          true,
		},
		topics: 210,
	})
}

// rabbit is an exchange of its own on the broker that all tests share. What was made on it is deleted with the test.
type rabbit struct {
	address  string
	exchange string
	admin    *amqp091.Connection // beside the code under test

	mu     *sync.Mutex
	queues map[string]bool // made by the code under test
}

func newRabbit(t testing.TB) *rabbit {
	t.Helper()
	r := &rabbit{
		address:  dbtest.Address(t, dbtest.RabbitMQ),
		exchange: unique("cqrs"),
		mu:       &sync.Mutex{},
		queues:   map[string]bool{},
	}
	var err error
	r.admin, err = amqp091.Dial(r.address)
	require.NoError(t, err)
	t.Cleanup(func() {
		channel := r.channel(t)
		for queue := range r.queues {
			_, err := channel.QueueDelete(queue, false, false, false)
			require.NoError(t, err)
		}
		require.NoError(t, channel.ExchangeDelete(r.exchange, false, false))
		require.NoError(t, r.admin.Close())
	})
	return r
}

// channel is for looking at the broker and for playing other programs on it.
func (r *rabbit) channel(t testing.TB) *amqp091.Channel {
	t.Helper()
	channel, err := r.admin.Channel()
	require.NoError(t, err)
	return channel
}

// config is that of a service; options are URL parameters.
func (r *rabbit) config(t testing.TB, queue, options string) amqp.Config {
	t.Helper()
	config, err := amqp.NewConfig(r.url(t, options), queue)
	require.NoError(t, err)
	return r.noted(config)
}

func (r *rabbit) url(t testing.TB, options string) string {
	t.Helper()
	u, err := url.Parse(r.address)
	require.NoError(t, err)
	query, err := url.ParseQuery(options)
	require.NoError(t, err)
	query.Set("exchange", r.exchange)
	u.RawQuery = query.Encode()
	return u.String()
}

// noted is config, whose queues are deleted with the test.
func (r *rabbit) noted(config amqp.Config) amqp.Config {
	name := config.Queue.GenerateName
	config.Queue.GenerateName = func(topic string) string {
		r.mu.Lock()
		defer r.mu.Unlock()
		queue := name(topic)
		if queue != "" {
			r.queues[queue], r.queues[amqp.DeadLetterQueue(queue)], r.queues[amqp.RegistryQueue(queue)] = true, true, true
		}
		return queue
	}
	return config
}

func (r *rabbit) publisher(t testing.TB, options string) *amqp.Publisher {
	t.Helper()
	pub, err := amqp.NewPublisher(r.config(t, "", options))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func (r *rabbit) subscriber(t testing.TB, queue string) *amqp.Subscriber {
	t.Helper()
	sub, err := amqp.NewSubscriber(r.config(t, queue, ""))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func (r *rabbit) inbox(t testing.TB, options string) *amqp.Subscriber {
	t.Helper()
	config, err := amqp.NewInboxConfig(r.url(t, options))
	require.NoError(t, err)
	sub, err := amqp.NewSubscriber(r.noted(config))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func (r *rabbit) subscribe(t testing.TB, queue, topic string, window int) <-chan *message.Message {
	t.Helper()
	messages, err := r.subscriber(t, queue).SubscribeWindow(t.Context(), topic, window)
	require.NoError(t, err)
	return messages
}

// bound is a queue of a topic that nobody reads.
func (r *rabbit) bound(t testing.TB, topic string) (queue string) {
	t.Helper()
	queue = unique("queue")
	require.NoError(t, r.subscriber(t, queue).SubscribeInitialize(topic))
	return queue
}

// next takes a raw message from a queue.
func (r *rabbit) next(t testing.TB, queue string) amqp091.Delivery {
	t.Helper()
	channel := r.channel(t)
	defer func() { require.NoError(t, channel.Close()) }()
	var delivery amqp091.Delivery
	require.Eventually(t, func() (ok bool) {
		var err error
		delivery, ok, err = channel.Get(queue, true)
		require.NoError(t, err)
		return ok
	}, patience, 5*time.Millisecond)
	return delivery
}

// waits returns when that many messages of a queue are not delivered to anybody.
func (r *rabbit) waits(t testing.TB, queue string, count int) {
	t.Helper()
	channel := r.channel(t)
	defer func() { require.NoError(t, channel.Close()) }()
	require.Eventually(t, func() bool {
		state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		require.NoError(t, err)
		return state.Messages == count
	}, patience, 5*time.Millisecond)
}
