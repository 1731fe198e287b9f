package transports_test

import (
	"errors"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/servers"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// atDestination requires that messages to one topic failed because of where they go, and the others
// arrived.
func atDestination(t *testing.T, batch []transport.Outgoing, errs []error, topic, reason string) {
	t.Helper()
	for i, err := range errs {
		if batch[i].Topic == topic {
			require.ErrorIs(t, err, transport.ErrDestination, "message %d", i)
			require.True(t, transport.AtDestination(err))
			require.ErrorContains(t, err, reason)
		} else {
			require.NoError(t, err, "message %d", i)
		}
	}
}

// mixed is a batch to several topics in turn.
func mixed(n int, topics ...string) []transport.Outgoing {
	batch := make([]transport.Outgoing, 0, n)
	for i := range n {
		batch = append(batch, outgoing(topics[i%len(topics)], 1)...)
	}
	return batch
}

func only(batch []transport.Outgoing, topic string) (chosen []transport.Outgoing) {
	for _, out := range batch {
		if out.Topic == topic {
			chosen = append(chosen, out)
		}
	}
	return chosen
}

// exchangePerTopic is a publisher with an exchange for each topic, called like the topic.
func (r *rabbit) exchangePerTopic(t *testing.T, options string) *amqp.Publisher {
	t.Helper()
	config := r.config(t, "", options)
	config.Exchange.GenerateName = func(topic string) string { return topic }
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func (r *rabbit) deletes(t *testing.T, exchange string) {
	t.Cleanup(func() { require.NoError(t, r.channel(t).ExchangeDelete(exchange, false, false)) })
}

func TestAMQPPublisherGoesOnWhereOneExchangeIsAnother(t *testing.T) {
	t.Parallel()
	r, fine, other := newRabbit(t), unique("fine"), unique("other")
	r.deletes(t, fine)
	r.deletes(t, other)
	require.NoError(t, r.channel(t).ExchangeDeclare(other, "fanout", true, false, false, false, nil))
	pub := r.exchangePerTopic(t, "")
	for range 3 {
		batch := mixed(10, other, fine)
		atDestination(t, batch, pub.PublishBatch(t.Context(), batch), other, "inequivalent arg 'type'")
	}
	require.NoError(t, r.channel(t).ExchangeDelete(other, false, false))
	require.Eventually(t, func() bool {
		return errors.Join(pub.PublishBatch(t.Context(), mixed(10, fine, other))...) == nil
	}, patience, 10*time.Millisecond, "it is tried again")
}

func TestAMQPPublisherGoesOnWhereOneExchangeIsMissing(t *testing.T) {
	t.Parallel()
	r, fine, missing := newRabbit(t), unique("fine"), unique("missing")
	r.deletes(t, fine)
	r.deletes(t, missing)
	declare := func(exchange string) {
		require.NoError(t, r.channel(t).ExchangeDeclare(exchange, "topic", true, false, false, false, nil))
	}
	declare(fine)
	pub := r.exchangePerTopic(t, "declare=false")
	for range 3 {
		batch := mixed(10, fine, missing)
		atDestination(t, batch, pub.PublishBatch(t.Context(), batch), missing, "NOT_FOUND")
	}
	declare(missing)
	require.Eventually(t, func() bool {
		return errors.Join(pub.PublishBatch(t.Context(), mixed(10, fine, missing))...) == nil
	}, patience, 10*time.Millisecond, "it is tried again")
}

// ownRabbit is a broker that belongs to one test, with users of its own.
type ownRabbit struct{ *servers.RabbitMQ }

// with is the node's URL for a user whose password is "pw".
func (n ownRabbit) with(t *testing.T, user, options string) amqp.Config {
	t.Helper()
	u, err := url.Parse(n.URL())
	require.NoError(t, err)
	u.User, u.RawQuery = url.UserPassword(user, "pw"), options
	config, err := amqp.NewConfig(u.String(), "stats")
	require.NoError(t, err)
	return config
}

func (n ownRabbit) user(t *testing.T, name, configure, write, read string) {
	t.Helper()
	n.Control(t, "add_user", name, "pw")
	n.Control(t, "set_permissions", "-p", "/", name, configure, write, read)
}

func publish(t *testing.T, config amqp.Config) *amqp.Publisher {
	t.Helper()
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	return pub
}

func subscribe(t *testing.T, config amqp.Config) *amqp.Subscriber {
	t.Helper()
	sub, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

// Permissions and limits are set on a broker of the test's own.
func TestAMQPPermissionsAndLimits(t *testing.T) {
	t.Parallel()
	node := ownRabbit{servers.StartRabbitMQ(t)}
	node.Control(t, "await_startup")
	node.user(t, "all", ".*", ".*", ".*")
	node.user(t, "writes", "^$", ".*", "^$")
	node.user(t, "reads", "^$", "^$", ".*")
	t.Run("what the documentation grants is enough", func(t *testing.T) {
		node.user(t, "relay", "^documented$", "^documented$", "^$")
		node.user(t, "replica", "^(documented|(dead_letter_)?stats)$", "^(dead_letter_)?stats$", "^(documented|stats)$")
		sub := subscribe(t, node.with(t, "replica", "exchange=documented"))
		messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
		require.NoError(t, err)
		batch := outgoing("order", 3)
		accepted(t, publish(t, node.with(t, "relay", "exchange=documented")).PublishBatch(t.Context(), batch), 3)
		require.Equal(t, ids(batch), acked(t, messages, 3))
		require.NoError(t, sub.Close())
		node.Control(t, "set_permissions", "-p", "/", "relay", "^$", "^documented$", "^$")
		node.Control(t, "set_permissions", "-p", "/", "replica", "^$", "^$", "^stats$")
		sub = subscribe(t, node.with(t, "replica", "exchange=documented&declare=false"))
		require.NoError(t, sub.SubscribeInitialize("order"))
		messages, err = sub.SubscribeWindow(t.Context(), "order", 10)
		require.NoError(t, err)
		for _, options := range []string{"exchange=documented", "exchange=documented&declare=false"} {
			accepted(t, publish(t, node.with(t, "relay", options)).PublishBatch(t.Context(), batch), 3)
			require.Equal(t, ids(batch), acked(t, messages, 3))
		}
		require.NoError(t, sub.Close())
		node.Control(t, "delete_queue", "stats")
	})
	t.Run("what the documentation grants for queues and inboxes is enough", func(t *testing.T) {
		keeperPermissions(t, node)
	})
	t.Run("without the exchange a user who may only write publishes nothing", func(t *testing.T) {
		for _, options := range []string{"", "declare=false"} {
			batch := outgoing("order", 3)
			atDestination(t, batch, publish(t, node.with(t, "writes", options)).PublishBatch(t.Context(), batch), "order", "NOT_FOUND")
		}
	})
	t.Run("without the queue a user who may only read waits", func(t *testing.T) {
		sub := subscribe(t, node.with(t, "reads", "declare=false"))
		require.ErrorIs(t, sub.SubscribeInitialize("order"), transport.ErrUnavailable)
		_, err := sub.Subscribe(t.Context(), "order")
		require.ErrorIs(t, err, transport.ErrUnavailable)
	})
	all := subscribe(t, node.with(t, "all", ""))
	for _, topic := range []string{"order", "bill"} {
		require.NoError(t, all.SubscribeInitialize(topic))
	}
	t.Run("what exists is enough for users who may not configure", func(t *testing.T) {
		sub := subscribe(t, node.with(t, "reads", "declare=false"))
		require.NoError(t, sub.SubscribeInitialize("order"))
		messages, err := sub.SubscribeWindow(t.Context(), "order", 10)
		require.NoError(t, err)
		for _, options := range []string{"", "declare=false"} {
			batch := outgoing("order", 3)
			accepted(t, publish(t, node.with(t, "writes", options)).PublishBatch(t.Context(), batch), 3)
			require.Equal(t, ids(batch), acked(t, messages, 3))
		}
		require.NoError(t, sub.Close())
	})
	t.Run("a topic that may not be written stops its messages only", func(t *testing.T) { forbiddenTopic(t, node, all) })
	t.Run("a topic that may not be bound is named, wherever it stands", func(t *testing.T) {
		node.user(t, "stats", ".*", ".*", ".*")
		node.Control(t, "set_topic_permissions", "-p", "/", "stats", "cqrs", ".*", "order")
		for _, topics := range [][]string{{"bill", "order"}, {"order", "bill", "order2"}, {"order", "bill"}} {
			_, err := subscribe(t, node.with(t, "stats", "")).SubscribeBatch(t.Context(), topics, 10)
			require.ErrorContains(t, err, "access to topic 'bill'")
			require.ErrorContains(t, err, "the user needs the permissions")
			require.NotErrorIs(t, err, transport.ErrUnavailable, "trying again does not help")
		}
	})
	t.Run("what the documentation grants for dead letters is enough", func(t *testing.T) { letterPermissions(t, node, all) })
	t.Run("a limit of connections is heeded", func(t *testing.T) { connectionLimit(t, node) })
}

func forbiddenTopic(t *testing.T, node ownRabbit, all *amqp.Subscriber) {
	node.user(t, "orders", ".*", ".*", ".*")
	node.Control(t, "set_topic_permissions", "-p", "/", "orders", "cqrs", "^(order|nobody)$", ".*")
	messages, err := all.SubscribeWindow(t.Context(), "order", 100)
	require.NoError(t, err)
	var dials atomic.Int64
	config := node.with(t, "orders", "mandatory=true")
	config.Connection.AmqpConfig = &amqp091.Config{Dial: func(network, address string) (net.Conn, error) {
		dials.Add(1)
		return net.Dial(network, address)
	}}
	pub := publish(t, config)
	for range 20 {
		batch := mixed(60, "order", "bill", "nobody")
		errs := pub.PublishBatch(t.Context(), batch)
		want := ids(only(batch, "order"))
		for i, err := range errs {
			switch batch[i].Topic {
			case "order":
				require.NoError(t, err)
			case "bill":
				require.ErrorIs(t, err, transport.ErrDestination)
				require.ErrorContains(t, err, "access to topic 'bill'")
			default: // its return may have come on the channel that was closed
				require.ErrorIs(t, err, transport.ErrUnroutable)
			}
		}
		var got []string
		for seen := map[string]bool{}; len(got) < len(want); { // what was on its way with what was refused comes twice
			msg := receive(t, messages)
			if !seen[msg.UUID] && strings.Contains(strings.Join(want, " "), msg.UUID) {
				got = append(got, msg.UUID)
			}
			seen[msg.UUID] = true
			msg.Ack()
		}
		require.Equal(t, want, got)
	}
	require.EqualValues(t, 1, dials.Load(), "the connection stays")
	node.Control(t, "clear_topic_permissions", "-p", "/", "orders")
	require.Eventually(t, func() bool {
		return errors.Join(pub.PublishBatch(t.Context(), outgoing("bill", 10))...) == nil
	}, patience, 10*time.Millisecond, "it is tried again")
}

func connectionLimit(t *testing.T, node ownRabbit) {
	node.user(t, "one", ".*", ".*", ".*")
	node.Control(t, "set_user_limits", "one", `{"max-connections": 1}`)
	pub := publish(t, node.with(t, "one", ""))
	publishAtOnce(t, pub, "order")
	require.NoError(t, pub.Probe(t.Context()))
	require.NoError(t, pub.Close())
	node.Control(t, "set_user_limits", "one", `{"max-connections": 0}`)
	err := publish(t, node.with(t, "one", "")).Probe(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "connection limit (0) is reached")
}

// publishAtOnce publishes with many calls at the same time, again and again.
func publishAtOnce(t *testing.T, pub *amqp.Publisher, topic string) {
	t.Helper()
	var calls sync.WaitGroup
	results := make(chan error, 10_000)
	for range 12 {
		calls.Go(func() {
			for range 20 {
				results <- errors.Join(pub.PublishBatch(t.Context(), outgoing(topic, 20))...)
			}
		})
	}
	calls.Wait()
	close(results)
	for err := range results {
		require.NoError(t, err)
	}
}

// A proxy before the broker may refuse a further connection, or let it wait for ever.
func TestAMQPPublisherDoesWithTheConnectionsItGets(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, silent.Close()) })
	for name, further := range map[string]func() (net.Conn, error){
		"refused": func() (net.Conn, error) { return nil, errors.New("too many") },
		"waiting": func() (net.Conn, error) { return net.Dial("tcp", silent.Addr().String()) },
	} {
		t.Run(name, func(t *testing.T) {
			r, topic := newRabbit(t), unique("topic")
			r.bound(t, topic)
			config := r.config(t, "", "connection_timeout=60000")
			var dials atomic.Int64
			config.Connection.AmqpConfig = &amqp091.Config{Dial: func(network, address string) (net.Conn, error) {
				if dials.Add(1) > 2 {
					return further()
				}
				return net.Dial(network, address)
			}}
			pub := publish(t, config)
			publishAtOnce(t, pub, topic)
			require.LessOrEqual(t, dials.Load(), int64(3), "what was refused is not asked for again and again")
		})
	}
}

func TestAMQPPublisherMakesNoMoreConnectionsThanItMay(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	r.bound(t, topic)
	config := r.config(t, "", "connections=2")
	var dials atomic.Int64
	config.Connection.AmqpConfig = &amqp091.Config{Dial: func(network, address string) (net.Conn, error) {
		dials.Add(1)
		return net.Dial(network, address)
	}}
	publishAtOnce(t, publish(t, config), topic)
	require.LessOrEqual(t, dials.Load(), int64(2))
}
