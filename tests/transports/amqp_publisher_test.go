package transports_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

func TestAMQPPublisherKeepsTheOrderOfALargeBatch(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	const n = 5000
	messages := r.subscribe(t, unique("queue"), topic, 1000)
	batch := outgoing(topic, n)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), batch), n)
	require.Equal(t, ids(batch), acked(t, messages, n))
}

func TestAMQPPublisherWritesManyMessagesAtOnce(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	r.bound(t, topic)
	config := r.config(t, "", "")
	var writes atomic.Int64
	config.Connection.AmqpConfig = &amqp091.Config{Dial: func(network, address string) (net.Conn, error) {
		socket, err := net.Dial(network, address)
		return countingConn{socket, &writes}, err
	}}
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1) // connects
	before := writes.Load()
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1000)), 1000)
	require.Less(t, writes.Load()-before, int64(100))
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

func TestAMQPPublisherCountsUnroutableMessages(t *testing.T) {
	t.Parallel()
	r, lonely, bound := newRabbit(t), unique("lonely"), unique("bound")
	r.bound(t, bound)
	var log bytes.Buffer
	config := r.config(t, "", "")
	config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	batch := append(outgoing(lonely, 3), outgoing(bound, 3)...)
	accepted(t, pub.PublishBatch(t.Context(), batch), 6)
	accepted(t, pub.PublishBatch(t.Context(), batch), 6)
	require.NoError(t, pub.Close())
	require.Equal(t, map[string]int64{lonely: 6}, pub.Unroutable())
	require.Equal(t, 1, strings.Count(log.String(), "level=WARN"), log.String())
	require.Contains(t, log.String(), lonely)
}

// What is already on its way when the first of a call comes back may not be counted: at most a window.
func TestAMQPPublisherNoticesThatATopicLosesItsQueue(t *testing.T) {
	t.Parallel()
	r, topic, other := newRabbit(t), unique("topic"), unique("other")
	r.bound(t, other)
	queue := r.bound(t, topic)
	pub := r.publisher(t, "window=4")
	publish := func() int64 {
		before := pub.Unroutable()[topic]
		accepted(t, pub.PublishBatch(t.Context(), append(outgoing(other, 3), outgoing(topic, 12)...)), 15)
		require.Zero(t, pub.Unroutable()[other])
		return pub.Unroutable()[topic] - before
	}
	channel := r.channel(t)
	for range 2 {
		require.Zero(t, publish())
		require.Zero(t, publish())
		require.NoError(t, channel.QueueUnbind(queue, topic, r.exchange, nil))
		require.GreaterOrEqual(t, publish(), int64(12-3))
		require.Equal(t, int64(12), publish())
		require.Equal(t, int64(12), publish())
		require.NoError(t, channel.QueueBind(queue, topic, r.exchange, false, nil))
	}
	r.waits(t, queue, 2*2*12)
}

func TestAMQPPublisherReportsUnroutableMessagesOnRequest(t *testing.T) {
	t.Parallel()
	r, lonely, topic := newRabbit(t), unique("lonely"), unique("topic")
	r.bound(t, topic)
	const n = 50
	batch := outgoing(topic, n)
	for i := range batch {
		if i%3 == 0 {
			batch[i].Topic = lonely
		}
	}
	batch[6].Message.UUID = batch[3].Message.UUID // the same message twice is returned twice
	pub := r.publisher(t, "mandatory=true&window=7")
	for i, err := range pub.PublishBatch(t.Context(), batch) {
		if i%3 == 0 {
			require.ErrorIs(t, err, transport.ErrUnroutable, "message %d", i)
			require.ErrorContains(t, err, lonely)
		} else {
			require.NoError(t, err, "message %d", i)
		}
	}
	require.ErrorIs(t, pub.Publish(lonely, batch[0].Message), transport.ErrUnroutable)
}

func TestAMQPPublisherSendsWhatDjangoReads(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	msg := message.NewMessage(watermill.NewUUID(), []byte(`{"signal_type":"SAVE"}`))
	msg.Metadata.Set("cqrs_key", "7")
	require.NoError(t, r.publisher(t, "").Publish(topic, msg))
	got := r.next(t, queue)
	require.Equal(t, "text/plain", got.ContentType)
	require.Equal(t, amqp091.Persistent, got.DeliveryMode)
	require.Equal(t, msg.UUID, got.MessageId)
	require.Equal(t, topic, got.RoutingKey)
	require.Equal(t, amqp091.Table{"cqrs_key": "7"}, got.Headers)
	require.Equal(t, []byte(msg.Payload), got.Body)
}

func TestAMQPPublisherFindsTheMessageThatTheBrokerRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*message.Message){
		"a header that the broker reserves":  func(m *message.Message) { m.Metadata.Set("CC", "not an array") },
		"more metadata than a frame":         func(m *message.Message) { m.Metadata.Set("huge", strings.Repeat("x", 200_000)) },
		"larger than the broker's own limit": func(m *message.Message) { m.Payload = make([]byte, 128<<20+1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, topic := newRabbit(t), unique("topic")
			const n, bad = 100, 40
			messages := r.subscribe(t, unique("queue"), topic, n)
			batch := outgoing(topic, n)
			spoil(batch[bad].Message)
			pub := r.publisher(t, "")
			for i, err := range pub.PublishBatch(t.Context(), batch) {
				if i == bad {
					require.ErrorIs(t, err, amqp.ErrRefused)
					require.NotErrorIs(t, err, transport.ErrUnavailable)
					require.ErrorContains(t, err, batch[bad].Message.UUID)
				} else {
					require.NoError(t, err, "message %d", i)
				}
			}
			// What was on its way when the channel closed may come twice; all come, each first in its order.
			want := append(ids(batch[:bad]), ids(batch[bad+1:])...)
			var got []string
			for seen := map[string]bool{}; len(got) < n-1; {
				msg := receive(t, messages)
				if !seen[msg.UUID] {
					got = append(got, msg.UUID)
				}
				seen[msg.UUID] = true
				msg.Ack()
			}
			require.Equal(t, want, got)
		})
	}
}

func TestAMQPPublisherRefusesWhatTheProtocolHasNoRoomFor(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	batch := outgoing(topic, 5)
	batch[0].Message.UUID = strings.Repeat("u", 256)
	batch[1].Topic = strings.Repeat("t", 256)
	batch[3].Message.Metadata.Set(strings.Repeat("k", 256), "")
	errs := r.publisher(t, "").PublishBatch(t.Context(), batch)
	for i, err := range errs {
		if i == 2 || i == 4 {
			require.NoError(t, err)
			require.Equal(t, batch[i].Message.UUID, r.next(t, queue).MessageId)
		} else {
			require.ErrorContains(t, err, "at most 255")
			require.NotErrorIs(t, err, transport.ErrUnavailable)
		}
	}
}

func TestAMQPPublisherRefusesAnExchangeThatTheProtocolHasNoRoomFor(t *testing.T) {
	t.Parallel()
	r := newRabbit(t)
	config := r.config(t, "", "")
	config.Exchange.GenerateName = func(topic string) string { return topic }
	config.Publish.GenerateRoutingKey = func(string) string { return "key" }
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	batch := outgoing(r.exchange, 2)
	batch[0].Topic = strings.Repeat("t", 256)
	errs := pub.PublishBatch(t.Context(), batch)
	require.ErrorContains(t, errs[0], "at most 255")
	require.NotErrorIs(t, errs[0], transport.ErrUnavailable)
	require.NoError(t, errs[1])
}

// What fits into the socket's buffer waits there, so the second message is larger than that.
func TestAMQPPublisherSendsTheFirstBeforeTheLastIsMarshalled(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	batch := outgoing(topic, 3)
	batch[1].Message.Payload = bytes.Repeat([]byte("x"), 1<<20)
	config := r.config(t, "", "")
	config.Marshaler = watched{before: func(msg *message.Message) {
		if msg == batch[2].Message {
			require.Equal(t, batch[0].Message.UUID, r.next(t, queue).MessageId)
		}
	}}
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	require.NoError(t, errors.Join(pub.PublishBatch(t.Context(), batch)...))
}

type watched struct {
	amqp.Marshaler
	before func(*message.Message)
}

func (w watched) Marshal(msg *message.Message) (amqp091.Publishing, error) {
	w.before(msg)
	return w.Marshaler.Marshal(msg)
}

func TestAMQPPublisherPassesOnAMarshalError(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	config := r.config(t, "", "")
	config.Marshaler = choosy{}
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pub.Close()) })
	batch := outgoing(topic, 3)
	batch[1].Message.Metadata.Set("bad", "yes")
	errs := pub.PublishBatch(t.Context(), batch)
	require.NoError(t, errs[0])
	require.ErrorIs(t, errs[1], errChoosy)
	require.NoError(t, errs[2])
	require.Equal(t, batch[0].Message.UUID, r.next(t, queue).MessageId)
	require.Equal(t, batch[2].Message.UUID, r.next(t, queue).MessageId)
}

var errChoosy = errors.New("not this one")

type choosy struct{ amqp.Marshaler }

func (c choosy) Marshal(msg *message.Message) (amqp091.Publishing, error) {
	if msg.Metadata.Get("bad") != "" {
		return amqp091.Publishing{}, errChoosy
	}
	return c.Marshaler.Marshal(msg)
}

func TestAMQPPublisherReportsANack(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	r.bound(t, unique("other")) // the exchange exists
	channel, full := r.channel(t), unique("full")
	_, err := channel.QueueDeclare(full, true, false, false, false,
		amqp091.Table{"x-max-length": 1, "x-overflow": "reject-publish"})
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := channel.QueueDelete(full, false, false, false)
		require.NoError(t, err)
	})
	require.NoError(t, channel.QueueBind(full, topic, r.exchange, false, nil))
	pub := r.publisher(t, "window=1") // the broker counts late what comes at once
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	errs := pub.PublishBatch(t.Context(), append(outgoing(topic, 1), outgoing(unique("lonely"), 1)...))
	require.ErrorIs(t, errs[0], amqp.ErrNacked)
	require.ErrorIs(t, errs[0], transport.ErrRejected)
	require.NotErrorIs(t, errs[0], transport.ErrUnavailable)
	require.NoError(t, errs[1])
}

func TestAMQPPublisherDeclaresADeletedExchangeAgain(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	pub := r.publisher(t, "")
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	require.NoError(t, r.channel(t).ExchangeDelete(r.exchange, false, false))
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 3)), 3)
	require.NoError(t, r.channel(t).ExchangeDeclarePassive(r.exchange, "topic", true, false, false, false, nil))
}

func TestAMQPPublisherStartsBeforeTheBroker(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	r.bound(t, topic)
	behind, proxy := r.through(t)
	proxy.reachable(false)
	pub := behind.publisher(t, "")
	for range 3 {
		errs := pub.PublishBatch(t.Context(), outgoing(topic, 2))
		require.ErrorIs(t, errs[0], transport.ErrUnavailable)
		require.ErrorIs(t, errs[1], transport.ErrUnavailable)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, pub.PublishBatch(ctx, outgoing(topic, 1))[0], context.Canceled)
	proxy.reachable(true)
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 2)), 2)
}

func TestAMQPPublisherOutlivesALostConnection(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	behind, proxy := r.through(t)
	pub := behind.publisher(t, "")
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	r.next(t, queue)
	proxy.mute(true)
	result := make(chan []error, 1)
	go func() { result <- pub.PublishBatch(t.Context(), outgoing(topic, 10)) }()
	r.next(t, queue) // it is on its way
	proxy.cut()
	for _, err := range <-result {
		require.ErrorIs(t, err, transport.ErrUnavailable)
	}
	proxy.mute(false)
	require.Eventually(t, func() bool {
		return pub.PublishBatch(t.Context(), outgoing(topic, 1))[0] == nil
	}, patience, time.Millisecond)
}

func TestAMQPPublisherGivesUpOnAMissingConfirm(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	behind, proxy := r.through(t)
	pub := behind.publisher(t, "confirm_timeout=100ms")
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	r.next(t, queue)
	proxy.mute(true)
	batch := outgoing(topic, 3)
	for _, err := range pub.PublishBatch(t.Context(), batch) {
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorContains(t, err, "did not confirm within 100ms")
	}
	require.Equal(t, batch[0].Message.UUID, r.next(t, queue).MessageId, "unknown means that it may have arrived")
	proxy.mute(false)
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
}

func TestAMQPPublisherEndsWithItsContextAndWithClose(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	behind, proxy := r.through(t)
	pub := behind.publisher(t, "")
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	r.next(t, queue)
	proxy.mute(true)
	batch := outgoing(topic, 3)
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan []error, 1)
	go func() { result <- pub.PublishBatch(ctx, batch) }()
	r.next(t, queue) // it is on its way
	cancel()
	for _, err := range <-result {
		require.ErrorIs(t, err, transport.ErrUnavailable)
		require.ErrorIs(t, err, context.Canceled)
	}
	ctx, cancel = context.WithCancel(t.Context())
	batch[1].Message.SetContext(ctx)
	cancel()
	require.ErrorIs(t, pub.Publish(topic, batch[0].Message, batch[1].Message), context.Canceled)

	proxy.mute(false)
	config := behind.config(t, "", "confirm_timeout=200ms")
	closing, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	accepted(t, closing.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	proxy.mute(true)
	go func() { result <- closing.PublishBatch(t.Context(), outgoing(topic, 1)) }()
	require.NoError(t, closing.Close())
	require.ErrorIs(t, (<-result)[0], transport.ErrUnavailable)
	require.ErrorIs(t, closing.Publish(topic, outgoing(topic, 1)[0].Message), transport.ErrUnavailable)
}

// overtaken is a context whose deadline passes when it has been asked that often, and no timer tells anybody: what a process
// sees that was stopped and goes on.
type overtaken struct {
	context.Context
	asks *atomic.Int64
}

func (o overtaken) Deadline() (time.Time, bool) {
	if o.asks.Add(-1) >= 0 {
		return time.Now().Add(time.Hour), true
	}
	return time.Now().Add(-time.Second), true
}

func TestAMQPPublisherSendsNothingThatItGatheredBeforeItsDeadline(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	messages := r.subscribe(t, unique("queue"), topic, 100)
	pub := r.publisher(t, "")
	const n = 34
	for _, asks := range []int64{1, n / 2, n} {
		accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1) // connects: that asks, too
		acked(t, messages, 1)
		ctx := overtaken{t.Context(), &atomic.Int64{}}
		ctx.asks.Store(asks)
		for _, err := range pub.PublishBatch(ctx, outgoing(topic, n)) {
			require.ErrorIs(t, err, transport.ErrUnavailable)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
	}
	last := outgoing(topic, 1)
	accepted(t, pub.PublishBatch(t.Context(), last), 1)
	require.Equal(t, ids(last), acked(t, messages, 1))
	silent(t, messages)
}

func TestAMQPPublisherWaitsWhileTheBrokerBlocks(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	messages := r.subscribe(t, unique("queue"), topic, 10)
	behind, proxy := r.through(t)
	impatient, patient := behind.publisher(t, "confirm_timeout=100ms"), behind.publisher(t, "")
	for _, pub := range []*amqp.Publisher{impatient, patient} {
		accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
		acked(t, messages, 1)
	}
	proxy.block()
	errs := impatient.PublishBatch(t.Context(), outgoing(topic, 2))
	require.ErrorIs(t, errs[0], transport.ErrUnavailable)
	require.ErrorContains(t, errs[1], "low on memory")
	batch := outgoing(topic, 2)
	result := make(chan []error, 1)
	go func() { result <- patient.PublishBatch(t.Context(), batch) }()
	silent(t, messages)
	require.Empty(t, result)
	proxy.unblock()
	accepted(t, <-result, 2)
	for last := ""; last != batch[1].Message.UUID; { // what was given up may arrive as well, before it
		last = acked(t, messages, 1)[0]
	}
}

func TestAMQPErrorsNeverShowThePassword(t *testing.T) {
	t.Parallel()
	r := newRabbit(t)
	config := r.config(t, "queue", "")
	uri, err := amqp091.ParseURI(config.Connection.AmqpURI)
	require.NoError(t, err)
	uri.Password = "s3cret"
	config.Connection.AmqpURI = uri.String()
	pub, err := amqp.NewPublisher(config)
	require.NoError(t, err)
	err = pub.Publish("topic", message.NewMessage("", nil))
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "username or password not allowed")
	require.NotContains(t, err.Error(), "s3cret")
	err = pub.Probe(t.Context())
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "username or password not allowed")
	require.NotContains(t, err.Error(), "s3cret")
	require.Eventually(t, func() bool {
		short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		err = pub.Probe(short)
		return errors.Is(err, context.DeadlineExceeded) && strings.Contains(err.Error(), "username or password not allowed")
	}, patience, time.Millisecond, "who has no time for another login hears of the last one")
	require.NoError(t, pub.Close())
	sub, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	_, err = sub.Subscribe(t.Context(), "topic")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.NotContains(t, err.Error(), "s3cret")
	require.NoError(t, sub.Close())
}
