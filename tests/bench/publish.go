package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

const (
	publishedFast   = 40_000 // messages of a case that pipelines
	publishedSlow   = 4_000  // of one that waits for every confirm
	publishedInto   = 4_000  // one queue: see onShortQueues
	publishWindow   = 1_000
	publishedAtOnce = 1_000 // what the relay claims
	anyNumber       = -1    // of messages is right
)

// benchPublish compares publishers that have every message confirmed, each with
// empty durable queues of its own.
func benchPublish(ctx context.Context, o options, report func(result)) error {
	address := os.Getenv(dbtest.Variable(dbtest.RabbitMQ))
	if address == "" {
		return fmt.Errorf("set %s to the URL of a RabbitMQ broker", dbtest.Variable(dbtest.RabbitMQ))
	}
	for _, kind := range []string{"classic", "quorum"} {
		name := kind + " queue"
		if !strings.Contains(name, o.only) {
			continue
		}
		p := publishBench{address: address, kind: kind, payload: payloadOf(500)}
		ours := func(mandatory bool, calls, size int) func(context.Context, publishPlace) error {
			return func(ctx context.Context, at publishPlace) error {
				return p.ours(ctx, at, mandatory, calls, size)
			}
		}
		g := group{
			bench: "publish", name: name, unit: "messages/s", of: "raw amqp091, window 1000",
			cases: []benchCase{
				{"raw amqp091, window 1000", p.onShortQueues(publishedFast, p.raw)},
				{"the same, mandatory", p.onShortQueues(publishedFast, p.rawMandatory)},
				{"ours", p.onShortQueues(publishedFast, ours(false, 1, publishedInto))},
				{"ours, mandatory", p.onShortQueues(publishedFast, ours(true, 1, publishedInto))},
				{"ours, 1000 a call",
					p.onShortQueues(publishedFast, ours(false, 1, publishedAtOnce))},
				{"ours, 1000 a call, 2 at once",
					p.onShortQueues(publishedFast, ours(false, 2, publishedAtOnce))},
				{"ours, 1000 a call, 4 at once",
					p.onShortQueues(publishedFast, ours(false, 4, publishedAtOnce))},
				{"watermill-amqp", p.onShortQueues(publishedSlow, p.watermill)},
			},
		}
		r, err := g.measure(ctx, o)
		if err != nil {
			return err
		}
		report(r)
	}
	return nil
}

type publishBench struct {
	address, kind string
	payload       []byte
}

// publishPlace is where one case publishes to, and how many messages.
type publishPlace struct {
	exchange, topic string
	messages        int
}

// payloadOf makes a SAVE of about that many bytes.
func payloadOf(size int) []byte {
	const frame = `{"signal_type":"SAVE","cqrs_id":"order",` +
		`"instance_data":{"id":1,"note":""},"previous_data":null}`
	return []byte(strings.Replace(frame, `""`, `"`+strings.Repeat("x", size-len(frame))+`"`, 1))
}

func (p publishBench) message() *message.Message {
	msg := message.NewMessage(watermill.NewUUID(), p.payload)
	msg.Metadata.Set("cqrs_key", "1")
	msg.Metadata.Set("cqrs_revision", "7")
	return msg
}

// onShortQueues is rate with a new queue after every publishedInto messages. RabbitMQ copies a
// classic queue's messages in memory about twice per thousand that come in (it collects its
// garbage), so one that nobody reads takes half as many a second as an empty one, and whoever fills
// it fastest would be compared with others on a shorter queue.
func (p publishBench) onShortQueues(
	messages int, publish func(context.Context, publishPlace) error,
) func(context.Context) (float64, error) {
	one := p.rate(publishedInto, publish)
	return func(ctx context.Context) (float64, error) {
		var took float64 // seconds
		for range messages / publishedInto {
			rate, err := one(ctx)
			if err != nil {
				return 0, err
			}
			took += publishedInto / rate
		}
		return float64(messages) / took, nil
	}
}

// rate makes an exchange and a queue, publishes, sees that everything
// is in the queue, and removes both.
func (p publishBench) rate(
	messages int, publish func(context.Context, publishPlace) error,
) func(context.Context) (float64, error) {
	return func(ctx context.Context) (rate float64, err error) {
		at := publishPlace{
			exchange: "cqrsync_bench_" + watermill.NewShortUUID(), topic: "order",
			messages: messages,
		}
		conn, err := amqp091.Dial(p.address)
		if err != nil {
			return 0, errors.New("RabbitMQ cannot be reached") // the error may quote the URL
		}
		defer func() { err = errors.Join(err, conn.Close()) }()
		channel, err := conn.Channel()
		if err != nil {
			return 0, err
		}
		err = channel.ExchangeDeclare(at.exchange, "topic", true, false, false, false, nil)
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, channel.ExchangeDelete(at.exchange, false, false)) }()
		queue, err := channel.QueueDeclare(at.exchange, true, false, false, false,
			amqp091.Table{"x-queue-type": p.kind})
		if err != nil {
			return 0, err
		}
		defer func() {
			_, deleteErr := channel.QueueDelete(queue.Name, false, false, false)
			err = errors.Join(err, deleteErr)
		}()
		if err := channel.QueueBind(queue.Name, at.topic, at.exchange, false, nil); err != nil {
			return 0, err
		}
		start := time.Now()
		if err := publish(ctx, at); err != nil {
			return 0, err
		}
		rate = float64(messages) / time.Since(start).Seconds()
		if messages == anyNumber {
			return 0, nil
		}
		return rate, p.allThere(ctx, channel, queue.Name, messages)
	}
}

// allThere waits until the broker counts all messages, which lags behind the confirms.
func (publishBench) allThere(
	ctx context.Context, channel *amqp091.Channel, queue string, want int,
) error {
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	for {
		state, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		if err != nil || state.Messages == want {
			return err
		}
		select {
		case <-deadline.C:
			return fmt.Errorf("%d of %d messages are in the queue", state.Messages, want)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func withParameters(address string, parameters map[string]string) (string, error) {
	u, err := url.Parse(address)
	if err != nil {
		return "", errors.New("the broker's address is not a URL")
	}
	query := u.Query()
	for name, value := range parameters {
		query.Set(name, value)
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}
