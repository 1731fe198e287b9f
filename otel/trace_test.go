package otelcqrs_test

import (
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// One trace shows the way of an order: request, transaction, publication, what the replica made of
// it, and the webhook.
func TestOneTraceShowsTheWayOfAnOrder(t *testing.T) {
	t.Run("files", func(t *testing.T) {
		broker := "sqlite://" + filepath.Join(t.TempDir(), "broker.db")
		showsTheWay(t, openShop(t, dbtest.SQLiteURL(t), dbtest.SQLiteURL(t), broker, "webhooks"))
	})
	t.Run("servers", func(t *testing.T) {
		broker, queue := rabbit(t)
		showsTheWay(t, openShop(t, dbtest.PostgresURL(t), dbtest.MariaDBURL(t), broker, queue))
	})
}

// rabbit is an exchange of the test's own, and a name for its queue.
func rabbit(t *testing.T) (broker, queue string) {
	t.Helper()
	address := dbtest.Address(t, dbtest.RabbitMQ)
	exchange := fmt.Sprintf("traced-%d", time.Now().UnixNano())
	queue = exchange + "-webhooks"
	t.Cleanup(func() {
		connection, err := amqp091.Dial(address)
		require.NoError(t, err)
		channel, err := connection.Channel()
		require.NoError(t, err)
		for _, name := range []string{queue, "dead_letter_" + queue} {
			_, err = channel.QueueDelete(name, false, false, false)
			require.NoError(t, err)
		}
		require.NoError(t, channel.ExchangeDelete(exchange, false, false))
		require.NoError(t, connection.Close())
	})
	separator := "?"
	if strings.Contains(address, "?") {
		separator = "&"
	}
	return address + separator + "exchange=" + exchange, queue
}

func showsTheWay(t *testing.T, s *shop) {
	t.Helper()
	const parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.orders.URL+"/orders",
		strings.NewReader(`{"customer":"Ada","lines":[{"sku":"book","quantity":2,"price":1250}]}`))
	require.NoError(t, err)
	request.Header.Set("Traceparent", parent)
	answer, err := s.orders.Client().Do(request)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusCreated, answer.StatusCode)
	select {
	case heard := <-s.heard:
		require.Contains(t, heard, parent[:36], "the webhook carries the trace")
	case <-time.After(time.Minute):
		require.Fail(t, "no webhook came")
	}
	const orders = "POST /orders"
	want := []string{orders, "transaction", "publish order", "process", "handle order", "webhook"}
	all := map[string]tracetest.SpanStub{}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		clear(all)
		for _, span := range s.spans.GetSpans() {
			all[strings.TrimSuffix(span.Name, " "+s.queue)] = span
		}
		for _, name := range want {
			assert.Contains(c, all, name)
		}
	}, time.Minute, 10*time.Millisecond)
	for name, span := range all {
		require.Equal(t, parent[3:35], span.SpanContext.TraceID().String(), name)
	}
	made := all["transaction"].SpanContext.SpanID()
	require.Equal(t, all[orders].SpanContext.SpanID(), all["transaction"].Parent.SpanID())
	require.Equal(t, made, all["publish order"].Parent.SpanID())
	require.Equal(t, made, all["process"].Parent.SpanID())
	require.Equal(t, all["process"].SpanContext.SpanID(), all["handle order"].Parent.SpanID())
	require.Equal(t, made, all["webhook"].Parent.SpanID())
	require.Equal(t, trace.SpanKindProducer, all["publish order"].SpanKind)
	require.Equal(t, trace.SpanKindConsumer, all["process"].SpanKind)
	for _, name := range []string{"publish order", "process"} {
		require.Equal(t, made, all[name].Links[0].SpanContext.SpanID(), "%s links to it", name)
	}
	require.Equal(t, []string{
		"messaging.batch.message_count=1", "messaging.destination.name=order",
		"messaging.operation.name=publish", "messaging.operation.type=send",
		"messaging.system=rabbitmq",
	}, texts(all["publish order"].Attributes))
	require.Equal(t, []string{
		"cqrsync.key=1", "cqrsync.model=order", "cqrsync.revision=0", "cqrsync.signal=SAVE",
	}, texts(all["handle order"].Attributes))
}

func texts(attributes []attribute.KeyValue) []string {
	var all []string
	for _, a := range attributes {
		all = append(all, string(a.Key)+"="+a.Value.String())
	}
	slices.Sort(all)
	return all
}
