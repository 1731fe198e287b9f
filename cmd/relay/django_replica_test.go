package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// djangoReplica is what a Django service leaves on a broker: its queue, that of its dead letters,
// and the exchange.
type djangoReplica struct {
	t       *testing.T
	url     string
	queue   string
	dead    string
	channel *amqp091.Channel
}

func newDjangoReplica(t *testing.T, dead string) *djangoReplica {
	t.Helper()
	address := dbtest.Address(t, dbtest.RabbitMQ)
	conn, err := amqp091.Dial(address)
	require.NoError(t, err)
	channel, err := conn.Channel()
	require.NoError(t, err)
	name := fmt.Sprintf("cqrsync_test_%d_%d", os.Getpid(), time.Now().UnixNano())
	u, err := url.Parse(address)
	require.NoError(t, err)
	u.RawQuery = url.Values{"exchange": {name}}.Encode()
	r := &djangoReplica{t, u.String(), name, dead + name, channel}
	require.NoError(t, channel.ExchangeDeclare(name, "topic", true, false, false, false, nil))
	for _, queue := range []string{r.queue, r.dead} {
		_, err = channel.QueueDeclare(queue, true, false, false, false, nil)
		require.NoError(t, err)
	}
	require.NoError(t, channel.QueueBind(r.queue, "cqrs."+name+".order", name, false, nil))
	require.NoError(t, channel.Confirm(false))
	t.Cleanup(func() {
		for _, queue := range []string{r.queue, r.dead} {
			_, err := channel.QueueDelete(queue, false, false, false)
			require.NoError(t, err)
		}
		require.NoError(t, channel.ExchangeDelete(name, false, false))
		require.NoError(t, conn.Close())
	})
	return r
}

// bury puts bodies into the queue of dead letters, as django-cqrs publishes them.
func (r *djangoReplica) bury(bodies ...string) {
	r.t.Helper()
	for _, body := range bodies {
		confirm, err := r.channel.PublishWithDeferredConfirm("", r.dead, true, false, amqp091.Publishing{
			ContentType: "text/plain", DeliveryMode: amqp091.Persistent, Expiration: "864000000", Body: []byte(body),
		})
		require.NoError(r.t, err)
		require.True(r.t, confirm.Wait())
	}
}

func (r *djangoReplica) waits(queue string, count int) {
	r.t.Helper()
	require.Eventually(r.t, func() bool {
		state, err := r.channel.QueueDeclarePassive(queue, true, false, false, false, nil)
		require.NoError(r.t, err)
		return state.Messages == count
	}, patience, 5*time.Millisecond)
}

// drain takes all that is in a queue.
func (r *djangoReplica) drain(queue string) (got []amqp091.Delivery) {
	r.t.Helper()
	for {
		delivery, found, err := r.channel.Get(queue, true)
		require.NoError(r.t, err)
		if !found {
			return got
		}
		got = append(got, delivery)
	}
}

func (r *djangoReplica) relay(args ...string) result {
	r.t.Helper()
	common := []string{"dead-letters", args[0], "--side", "replica", "--broker", r.url, "--queue", r.queue}
	if !strings.HasPrefix(r.dead, "dead_letter_") {
		common = append(common, "--dead-letter-queue", r.dead)
	}
	return invoke(r.t.Context(), append(common, args[1:]...)...)
}

// letter is the body of a message that a Django replica gave up.
func letter(model string, pk int, expires string) string {
	return fmt.Sprintf(`{"signal_type":"SAVE","cqrs_id":"%s","instance_data":{"id":%d,"price":1.10,"cqrs_revision":3,`+
		`"cqrs_updated":"2026-11-22 22:16:33.237828+00:00"},"previous_data":null,"instance_pk":%d,"correlation_id":null,`+
		`"retries":30,"expires":%s,"meta":{}}`, model, pk, pk, expires)
}

const past = `"2026-11-23T22:16:45+00:00"`
