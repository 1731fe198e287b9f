package transports_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// Django declares the same objects with these arguments, and a difference would be PRECONDITION_FAILED for whoever
// comes second.
func TestAMQPTopologyIsDjangos(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	queue := r.bound(t, topic)
	channel := r.channel(t)
	dead := "dead_letter_" + queue
	require.NoError(t, channel.ExchangeDeclare(r.exchange, "topic", true, false, false, false, nil))
	for _, q := range []string{queue, dead} {
		_, err := channel.QueueDeclare(q, true, false, false, false, nil)
		require.NoError(t, err)
	}
	for key, q := range map[string]string{
		topic:                         queue,
		"cqrs." + queue + "." + topic: queue,
		"cqrs.dead_letter_" + queue + "." + topic: dead,
	} {
		err := channel.PublishWithContext(t.Context(), r.exchange, key, true, false, amqp091.Publishing{MessageId: key})
		require.NoError(t, err)
		require.Equal(t, key, r.next(t, q).MessageId)
	}
}

func TestAMQPSubscriberJoinsDjangosQueue(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	channel := r.channel(t)
	require.NoError(t, channel.ExchangeDeclare(r.exchange, "topic", true, false, false, false, nil))
	_, err := channel.QueueDeclare(queue, true, false, false, false, nil)
	require.NoError(t, err)
	messages := r.subscribe(t, queue, topic, 1)
	require.NoError(t, channel.PublishWithContext(t.Context(), r.exchange, topic, true, false, amqp091.Publishing{
		ContentType: "text/plain", DeliveryMode: amqp091.Persistent, Body: []byte(`{}`),
	}))
	msg := receive(t, messages)
	require.Equal(t, `{}`, string(msg.Payload))
	require.Empty(t, msg.UUID)
	require.Empty(t, msg.Metadata)
	msg.Ack()
}

// A Django master says by nothing but the routing key that a message is for one queue.
func TestAMQPSubscriberTellsWhatIsForItsQueueAlone(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	messages := r.subscribe(t, queue, topic, 4)
	for _, sent := range []struct {
		key     string
		headers amqp091.Table
		want    string
	}{
		{topic, nil, ""},
		{"cqrs." + queue + "." + topic, nil, "true"},
		{topic, amqp091.Table{transport.DirectKey: "true"}, ""},
	} {
		require.NoError(t, r.channel(t).PublishWithContext(t.Context(), r.exchange, sent.key, true, false,
			amqp091.Publishing{Headers: sent.headers, Body: []byte(`{}`)}))
		msg := receive(t, messages)
		require.Equal(t, sent.want, msg.Metadata[transport.DirectKey], sent.key)
		msg.Ack()
	}
}

func TestAMQPSubscriberNamesAQueueWithOtherArguments(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	sub := r.subscriber(t, queue)
	_, err := r.channel(t).QueueDeclare(queue, true, false, false, false, amqp091.Table{"x-queue-type": "quorum"})
	require.NoError(t, err)
	_, err = sub.Subscribe(t.Context(), topic)
	require.ErrorContains(t, err, queue)
	require.ErrorContains(t, err, "queue_type")
	require.NotErrorIs(t, err, transport.ErrUnavailable, "trying again does not help")
	require.ErrorContains(t, sub.SubscribeInitialize(topic), "queue_type")
}

func TestAMQPSubscriberTakesAnyHeader(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	messages := r.subscribe(t, unique("queue"), topic, 1)
	err := r.channel(t).PublishWithContext(t.Context(), r.exchange, topic, true, false, amqp091.Publishing{
		MessageId: "id",
		Headers: amqp091.Table{
			"text": "t", "bytes": []byte("b"), "nothing": nil, "yes": true, "byte": byte(1), "short": int16(-2), "int": int32(-3),
			"long": int64(1) << 62, "double": 0.5, "time": time.Unix(0, 0), "decimal": amqp091.Decimal{Scale: 2, Value: 314},
			"table": amqp091.Table{"a": []any{int32(1), "x", nil}},
		},
	})
	require.NoError(t, err)
	msg := receive(t, messages)
	require.Equal(t, "id", msg.UUID)
	require.Equal(t, message.Metadata{
		"text": "t", "bytes": "b", "yes": "true", "byte": "1", "short": "-2", "int": "-3", "long": "4611686018427387904",
		"double": "0.5", "time": "1970-01-01T00:00:00Z", "decimal": `{"Scale":2,"Value":314}`, "table": `{"a":[1,"x",null]}`,
	}, msg.Metadata)
	msg.Ack()
}

func TestAMQPSubscriberTakesWhatWasDeadLettered(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	messages := r.subscribe(t, unique("queue"), topic, 1)
	channel, waiting := r.channel(t), unique("waiting")
	_, err := channel.QueueDeclare(waiting, false, false, true, false, amqp091.Table{
		"x-message-ttl": 1, "x-dead-letter-exchange": r.exchange, "x-dead-letter-routing-key": topic,
	})
	require.NoError(t, err)
	err = channel.PublishWithContext(t.Context(), "", waiting, true, false, amqp091.Publishing{Body: []byte("late")})
	require.NoError(t, err)
	msg := receive(t, messages)
	require.Equal(t, "late", string(msg.Payload))
	require.Equal(t, "expired", msg.Metadata.Get("x-first-death-reason"))
	require.Contains(t, msg.Metadata.Get("x-death"), `"queue":"`+waiting+`"`)
	// Sent again with that metadata, it is an ordinary message.
	again := message.NewMessage("again", []byte("again"))
	again.Metadata = msg.Metadata
	require.NoError(t, r.publisher(t, "mandatory=true").Publish(topic, again))
	msg.Ack()
	require.Equal(t, []string{"again"}, acked(t, messages, 1))
}

func TestAMQPQuorumQueueDeliversForEver(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	sub, err := amqp.NewSubscriber(r.config(t, unique("queue"), "queue_type=quorum"))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	for range 25 { // RabbitMQ 4 gives up at 20, unless told otherwise
		receive(t, messages).Nack()
	}
	msg := receive(t, messages)
	require.Equal(t, "25", msg.Metadata.Get("x-delivery-count"))
	msg.Ack()
}

func TestAMQPSubscriberReportsAnUnreachableBroker(t *testing.T) {
	t.Parallel()
	behind, proxy := newRabbit(t).through(t)
	sub := behind.subscriber(t, unique("queue"))
	proxy.reachable(false)
	_, err := sub.Subscribe(t.Context(), "topic")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorIs(t, sub.SubscribeInitialize("topic"), transport.ErrUnavailable)

	proxy.reachable(true)
	proxy.mute(true)
	config := behind.config(t, unique("queue"), "connection_timeout=100")
	sub, err = amqp.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	_, err = sub.Subscribe(t.Context(), "topic")
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "connection_timeout")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = sub.Subscribe(ctx, "topic")
	require.ErrorIs(t, err, context.Canceled)
}

func TestAMQPSubscriptionOutlivesALostConnection(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	behind, proxy := r.through(t)
	queue := unique("queue")
	messages := behind.subscribe(t, queue, topic, 1)
	pub := r.publisher(t, "")
	batch := outgoing(topic, 3)
	accepted(t, pub.PublishBatch(t.Context(), batch), 3)
	held := receive(t, messages)
	proxy.reachable(false)
	proxy.cut()
	r.waits(t, queue, 3)
	proxy.reachable(true)
	r.waits(t, queue, 2) // the broker delivers it again,
	silent(t, messages)  // but the window is full
	held.Ack()           // and this is too late for the broker
	require.Equal(t, ids(batch), acked(t, messages, 3))
	proxy.cut()
	accepted(t, pub.PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	acked(t, messages, 1)
}

func TestAMQPSubscriberSettlesEveryMessageByItself(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	const n, window = 3000, 200
	sub := r.subscriber(t, queue)
	messages, err := sub.SubscribeWindow(t.Context(), topic, window)
	require.NoError(t, err)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), outgoing(topic, n)), n)
	var workers sync.WaitGroup
	var mu sync.Mutex
	deliveries := map[string]int{}
	enough := make(chan struct{})
	missing := n
	for range 8 { // so that acks and nacks come in any order
		workers.Go(func() {
			for {
				select {
				case msg := <-messages:
					mu.Lock()
					deliveries[msg.UUID]++
					again := deliveries[msg.UUID] == 1 && len(deliveries)%7 == 0
					if again {
						deliveries[msg.UUID] = -1
					} else if missing--; missing == 0 {
						close(enough)
					}
					mu.Unlock()
					if again {
						msg.Nack()
					} else {
						msg.Ack()
					}
				case <-enough:
					return
				case <-t.Context().Done():
					return
				}
			}
		})
	}
	workers.Wait()
	require.NoError(t, sub.Close())
	require.Len(t, deliveries, n)
	for id, count := range deliveries {
		require.Contains(t, []int{0, 1}, count, "%s was acked once", id)
	}
	r.waits(t, queue, 0)
}

func TestAMQPSubscriptionOutlivesADeletedQueue(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	messages := r.subscribe(t, queue, topic, 10)
	_, err := r.channel(t).QueueDelete(queue, false, false, false)
	require.NoError(t, err)
	pub := r.publisher(t, "mandatory=true")
	require.Eventually(t, func() bool {
		return pub.PublishBatch(t.Context(), outgoing(topic, 1))[0] == nil
	}, patience, 5*time.Millisecond)
	acked(t, messages, 1)
}

func TestAMQPSubscriptionsDoNotEndEachOther(t *testing.T) {
	t.Parallel()
	r, one, two := newRabbit(t), unique("topic"), unique("topic")
	sub := r.subscriber(t, "") // a queue per topic, on one connection
	ctx, cancel := context.WithCancel(t.Context())
	first, err := sub.Subscribe(ctx, one)
	require.NoError(t, err)
	second, err := sub.Subscribe(t.Context(), two)
	require.NoError(t, err)
	cancel()
	closed(t, first)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), outgoing(two, 3)), 3)
	acked(t, second, 3)
}

func TestAMQPSubscriberClosesWhileTheBrokerIsAway(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	behind, proxy := r.through(t)
	sub := behind.subscriber(t, unique("queue"))
	messages, err := sub.SubscribeWindow(t.Context(), topic, 5)
	require.NoError(t, err)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), outgoing(topic, 1)), 1)
	held := receive(t, messages)
	proxy.reachable(false)
	proxy.cut()
	require.NoError(t, sub.Close())
	closed(t, messages)
	ended(t, held)
}

func TestAMQPSpeaksTLS(t *testing.T) {
	t.Parallel()
	r, topic := newRabbit(t), unique("topic")
	u, err := url.Parse(r.address)
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(nil) // for its certificate
	server.StartTLS()
	certificate, config := server.Certificate(), server.TLS.Clone()
	config.NextProtos = nil
	server.Close()
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	require.NoError(t, err)
	newProxy(t, listener, u.Host)
	file := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}), 0o600))

	behind := *r
	u.Scheme, u.Host = "amqps", listener.Addr().String()
	behind.address = u.String()
	trusting := "cacertfile=" + url.QueryEscape(file)
	sub, err := amqp.NewSubscriber(behind.config(t, unique("queue"), trusting))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	messages, err := sub.Subscribe(t.Context(), topic)
	require.NoError(t, err)
	accepted(t, behind.publisher(t, trusting).PublishBatch(t.Context(), outgoing(topic, 2)), 2)
	acked(t, messages, 2)

	err = behind.publisher(t, "").Publish(topic, message.NewMessage("", nil))
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.ErrorContains(t, err, "certificate")
}

func TestAMQPSubscriberTakesBatchesOfAcks(t *testing.T) {
	t.Parallel()
	r, topic, queue := newRabbit(t), unique("topic"), unique("queue")
	sub := r.subscriber(t, queue)
	s, err := sub.SubscribeBatch(t.Context(), []string{topic}, 10)
	require.NoError(t, err)
	batch := outgoing(topic, 12)
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), batch), 12)
	var held []*message.Message
	for range 10 {
		held = append(held, receive(t, s.Messages))
	}
	silent(t, s.Messages)
	held[0].Ack()
	silent(t, s.Messages) // its own ack does nothing
	s.Settle(held[6:], held[4:6])
	s.Settle(held[6:], nil) // a second time does no harm
	more := []*message.Message{receive(t, s.Messages), receive(t, s.Messages), receive(t, s.Messages), receive(t, s.Messages)}
	require.ElementsMatch(t, slices.Concat(ids(batch[10:]), ids(batch[4:6])), uuids(more))
	s.Settle(slices.Concat(more, held[:3]), nil)
	s.Settle(nil, held[3:4])
	require.NoError(t, sub.Close()) // and no ack is lost that waited for the one before it
	closed(t, s.Messages)
	s.Settle(held[3:4], nil) // too late
	again := r.subscribe(t, queue, topic, 10)
	require.Equal(t, []string{batch[3].Message.UUID}, acked(t, again, 1))
	silent(t, again)
}

// limitedChannels is a subscriber whose connections have room for so many channels.
func (r *rabbit) limitedChannels(t testing.TB, queue string, channels uint16) *amqp.Subscriber {
	t.Helper()
	config := r.config(t, queue, "")
	config.Connection.AmqpConfig = &amqp091.Config{ChannelMax: channels}
	sub, err := amqp.NewSubscriber(config)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sub.Close()) })
	return sub
}

func TestAMQPSubscriptionsTakeMoreConnectionsWhereOneHasNoRoom(t *testing.T) {
	t.Parallel()
	r, queue, prefix := newRabbit(t), unique("queue"), unique("topic")
	sub := r.limitedChannels(t, queue, 3)
	var batch []transport.Outgoing
	var all []<-chan *message.Message
	for i := range 10 {
		topic := fmt.Sprintf("%s-%d", prefix, i)
		messages, err := sub.SubscribeWindow(t.Context(), topic, 2)
		require.NoError(t, err)
		all = append(all, messages)
		batch = append(batch, outgoing(topic, 3)...)
	}
	accepted(t, r.publisher(t, "").PublishBatch(t.Context(), batch), len(batch))
	require.ElementsMatch(t, ids(batch), acked(t, merge(t, all...), len(batch)))
}

func TestAMQPBatchSubscriptionNeedsOneChannel(t *testing.T) {
	t.Parallel()
	behind, proxy := newRabbit(t).through(t)
	queue, topics := unique("queue"), []string{unique("topic"), unique("topic"), unique("topic")}
	sub := behind.limitedChannels(t, queue, 1)
	s, err := sub.SubscribeBatch(t.Context(), topics, 10)
	require.NoError(t, err)
	for range 2 {
		missing := map[string]bool{}
		for _, topic := range topics {
			batch := outgoing(topic, 1)
			missing[batch[0].Message.UUID] = true
			accepted(t, behind.publisher(t, "").PublishBatch(t.Context(), batch), 1)
		}
		for len(missing) > 0 {
			msg := receive(t, s.Messages)
			delete(missing, msg.UUID) // or it came before: the cut has swallowed its ack
			s.Settle([]*message.Message{msg}, nil)
		}
		proxy.cut() // and it comes back with all its topics
	}
}
