//go:build unix

package django

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

const conversationPace = 500 * time.Millisecond

// reports lets a replica talk to its master, which while that is Django does not answer.
func (d deployment) reports(rep *replica.Replica) {
	quiet := slog.New(slog.DiscardHandler)
	publisher, err := open.Publisher(d.brokerURL(), open.Options{Logger: quiet, RequireQueue: true})
	require.NoError(d, err)
	reporter, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{Pace: conversationPace, Logger: quiet})
	require.NoError(d, err)
	d.background(reporter.Run, publisher.Close)
}

// answered lets the Go master answer while the test runs, and listens to all that goes over the
// exchange. The function that it returns checks that none of the conversation went to a replica of
// Django's.
func (d deployment) answered(t *testing.T, box *outbox.Box) (check func()) {
	quiet := slog.New(slog.DiscardHandler)
	options := open.Options{Logger: quiet}
	publisher, err := open.Publisher(d.brokerURL(), options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, publisher.Close()) })
	answerer, err := converge.NewAnswerer(box, converge.Broker{
		Publisher: publisher,
		Inbox:     func() (message.Subscriber, error) { return open.Inbox(d.brokerURL(), options) },
		Queue: func(name string) (converge.Queue, error) {
			subscriber, err := open.Subscriber(d.brokerURL(), name, options)
			if err != nil {
				return nil, err
			}
			return subscriber.(converge.Queue), nil
		},
	}, converge.AnswererConfig{Pace: conversationPace, Logger: quiet})
	require.NoError(t, err)
	all := d.overhear(t)
	d.in(t).background(answerer.Run, d.removeInboxes)
	return func() {
		t.Helper()
		heartbeats := func() (n int) {
			for _, m := range all() {
				control := m.Headers[transport.ControlKey] != nil
				for _, name := range []string{rabbit, kombu} { // whose workers are Django's
					require.False(t, control && strings.HasPrefix(m.RoutingKey, "cqrs."+d.queue(name)+"."), m.RoutingKey)
				}
				if strings.HasPrefix(m.RoutingKey, "cqrsync.master.") {
					require.True(t, control)
					continue
				}
				if control {
					require.True(t, strings.HasPrefix(m.RoutingKey, "cqrs."), "a heartbeat is for one queue")
					n++
				} else {
					require.Equal(t, []string{
						"correlation_id", "cqrs_id", "expires", "instance_data", "instance_pk", "meta",
						"previous_data", "retries", "signal_type",
					}, keysOf(t, m.Body), "what Django reads is what it always was")
				}
			}
			return n
		}
		require.Eventually(t, func() bool { return heartbeats() >= 3 }, time.Minute, 50*time.Millisecond)
		require.Positive(t, answerer.Answered().Reports)
	}
}

func keysOf(t *testing.T, body []byte) []string {
	t.Helper()
	var object map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(body, &object))
	var keys []string
	for key := range object {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// overhear collects all that is published to the exchange until the test ends.
func (d deployment) overhear(t *testing.T) (all func() []amqp091.Delivery) {
	connection, err := amqp091.Dial(d.broker)
	require.NoError(t, err)
	channel, err := connection.Channel()
	require.NoError(t, err)
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	require.NoError(t, err)
	require.NoError(t, channel.QueueBind(queue.Name, "#", d.exchange, false, nil))
	deliveries, err := channel.ConsumeWithContext(context.Background(), queue.Name, "", true, true, false, false, nil)
	require.NoError(t, err)
	var mu sync.Mutex
	var heard []amqp091.Delivery
	var listening sync.WaitGroup
	listening.Go(func() {
		for delivery := range deliveries {
			mu.Lock()
			heard = append(heard, delivery)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		require.NoError(t, connection.Close())
		listening.Wait()
	})
	return func() []amqp091.Delivery {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(heard)
	}
}

// removeInboxes removes what replicas send to the master.
func (d deployment) removeInboxes() error {
	return d.channel(func(channel *amqp091.Channel) error {
		for _, model := range models {
			name := d.exchange + "." + transport.MasterTopic(model)
			if _, err := channel.QueueDelete(name, false, false, false); err != nil {
				return err
			}
		}
		return nil
	})
}
