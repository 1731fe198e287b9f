package otelcqrs_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func newTracing() (*otelcqrs.Tracing, *tracetest.InMemoryExporter) {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	return otelcqrs.New(otelcqrs.Config{TracerProvider: provider}), spans
}

// parent is the context of the nth of many transactions.
func parent(n int, flags string) string {
	return fmt.Sprintf("00-%032x-%016x-%s", n+1, n+1, flags)
}

func TestABatchLinksToAllAndIsInEveryTrace(t *testing.T) {
	for _, traces := range []int{1, 2, 128, 300} {
		tracing, spans := newTracing()
		broker := memory.New()
		subscriber := broker.Subscriber("all")
		defer func() { require.NoError(t, subscriber.Close()) }()
		messages, err := subscriber.SubscribeWindow(t.Context(), "order", 1000)
		require.NoError(t, err)
		var batch []transport.Outgoing
		for i := range 2 * traces {
			m := message.NewMessage("", []byte("{}"))
			m.Metadata.Set("traceparent", parent(i%traces, "01"))
			batch = append(batch, transport.Outgoing{Topic: "order", Message: m})
		}
		for range traces { // and as many that are not recorded
			m := message.NewMessage("", []byte("{}"))
			m.Metadata.Set("traceparent", parent(1000, "00"))
			batch = append(batch, transport.Outgoing{Topic: "order", Message: m})
		}
		for _, err := range tracing.Publisher(broker.Publisher()).PublishBatch(t.Context(), batch) {
			require.NoError(t, err)
		}
		require.Len(t, spans.GetSpans(), traces)
		requireEveryTrace(t, spans.GetSpans(), traces)
		m := <-messages
		require.Equal(t, parent(0, "01"), m.Metadata.Get("traceparent"), "it goes on as it came")

		spans.Reset()
		var received []*envelope.Message
		for i := range 2 * traces {
			received = append(received, &envelope.Message{Model: "order",
				Headers: map[string]string{"traceparent": parent(i%traces, "01")}})
		}
		_, end := tracing.Apply(t.Context(), "all", slices.Values(received))
		end(nil)
		requireEveryTrace(t, spans.GetSpans(), traces)
	}
}

func requireEveryTrace(t *testing.T, spans tracetest.SpanStubs, traces int) {
	t.Helper()
	require.Len(t, spans, traces)
	seen := map[string]bool{}
	whole := spans[len(spans)-1]
	require.Len(t, whole.Links, min(traces, 128))
	require.Contains(t, texts(whole.Attributes),
		fmt.Sprintf("messaging.batch.message_count=%d", 2*traces))
	for _, span := range spans {
		seen[span.SpanContext.TraceID().String()] = true
		require.Equal(t, span.Parent.SpanID(), span.Links[0].SpanContext.SpanID())
		if span.SpanContext.SpanID() != whole.SpanContext.SpanID() {
			require.Len(t, span.Links, 2)
			require.Equal(t, whole.SpanContext.SpanID(), span.Links[1].SpanContext.SpanID())
			require.Contains(t, texts(span.Attributes), "messaging.batch.message_count=2")
		}
	}
	require.Len(t, seen, traces)
}

// What is not recorded, or is no trace context at all, makes no span and harms nothing. Within a
// handler the trace goes on, so that nobody downstream begins another one.
func TestWhatIsNotSampledMakesNoSpans(t *testing.T) {
	tracing, spans := newTracing()
	for _, header := range []string{
		"", parent(1, "00"), parent(1, "02"), "00-ab-cd-01", "junk", parent(1, "0g"),
		"00-00000000000000000000000000000000-0000000000000000-01",
		"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
		"00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
	} {
		m := &envelope.Message{Model: "order", Headers: map[string]string{"traceparent": header}}
		ctx, end := tracing.Apply(t.Context(), "q", slices.Values([]*envelope.Message{m}))
		ctx, handled := tracing.Handle(ctx, m)
		if header == parent(1, "00") {
			carried := trace.SpanContextFromContext(ctx)
			require.Equal(t, fmt.Sprintf("%032x", 2), carried.TraceID().String())
			require.False(t, carried.IsSampled())
			require.Equal(t, header, tracing.Headers(ctx)["traceparent"])
		}
		handled(nil)
		end(errors.New("nobody sees it"))
		carrier := message.NewMessage("", nil)
		carrier.Metadata.Set("traceparent", header)
		tracing.Publisher(memory.New().Publisher()).PublishBatch(t.Context(),
			[]transport.Outgoing{{Topic: "order", Message: carrier}})
		require.Empty(t, spans.GetSpans(), header)
	}
}

// A handler that fails for one message, and panics for another, shows in their traces.
func TestFailuresAreErrorsOfTheirTraces(t *testing.T) {
	tracing, spans := newTracing()
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(db, replica.Config{Queue: "q", Tracer: tracing})
	require.NoError(t, err)
	type Order struct{ ID int64 }
	require.NoError(t, replica.HandleFunc(rep, "order",
		func(_ context.Context, e replica.Event[Order]) error {
			switch e.Data.ID {
			case 1:
				return replica.Permanent(errors.New("no such customer"))
			case 2:
				panic("nil map")
			}
			return nil
		}))
	require.NoError(t, rep.Migrate(t.Context()))
	handle := rep.Handler()
	for id := range 3 {
		m := envelope.Message{
			Signal: envelope.Save, Model: "order", PK: fmt.Appendf(nil, "%d", id),
			Data:    fmt.Appendf(nil, `{"id":%d,"cqrs_revision":0,"cqrs_updated":"2026-01-01T00:00:00Z"}`, id),
			Headers: map[string]string{"traceparent": parent(id, "01")},
		}
		body, err := m.Encode()
		require.NoError(t, err)
		carrier := message.NewMessage("", body)
		carrier.Metadata = m.Metadata()
		require.NoError(t, handle(carrier))
	}
	said := map[string]string{}
	for _, span := range spans.GetSpans() {
		trace := span.SpanContext.TraceID().String()[30:]
		said[trace+" "+span.Name] = span.Status.Description
		require.Equal(t, span.Status.Description != "", span.Status.Code == codes.Error)
	}
	require.Equal(t, map[string]string{
		"01 handle order": "", "01 process q": "",
		"02 handle order": "no such customer",
		"02 process q": `messages failed: 1, the first: apply SAVE of model "order" key "1" ` +
			"revision 0: no such customer",
		"03 handle order": "the handler panicked",
		"03 process q":    said["03 process q"],
	}, said)
	require.Contains(t, said["03 process q"], "panic: nil map")
}

// A publisher answers for each message, and only the trace of one that was refused has an error.
func TestARefusedMessageIsAnErrorOfItsTrace(t *testing.T) {
	tracing, spans := newTracing()
	var batch []transport.Outgoing
	for i := range 3 {
		m := message.NewMessage("", nil)
		m.Metadata.Set("traceparent", parent(i, "01"))
		batch = append(batch, transport.Outgoing{Topic: []string{"a", "b", "a"}[i], Message: m})
	}
	tracing.Publisher(refusing{}).PublishBatch(t.Context(), batch)
	said := map[string]string{}
	for _, span := range spans.GetSpans() {
		said[span.SpanContext.TraceID().String()[31:]+" "+span.Name] = span.Status.Description
	}
	require.Equal(t, map[string]string{
		"1 publish":   "messages of 1 of 3 traces failed, the last: too large",
		"2 publish b": "too large", "3 publish a": "",
	}, said)
}

type refusing struct{ transport.BatchPublisher }

func (refusing) PublishBatch(context.Context, []transport.Outgoing) []error {
	return []error{nil, errors.New("too large"), nil}
}

func TestATransactionThatFailsSaysWhy(t *testing.T) {
	tracing, spans := newTracing()
	box, err := outbox.New(dbtest.Open(t, dbtest.SQLiteURL(t)), outbox.Config{
		Trace: tracing.Transaction, Headers: tracing.Headers,
	})
	require.NoError(t, err)
	require.NoError(t, box.Migrate(t.Context()))
	why := errors.New("the customer is unknown")
	require.ErrorIs(t, box.RunInTx(t.Context(), nil, failing(why)), why)
	require.Panics(t, func() { _ = box.RunInTx(t.Context(), nil, panicking) })
	all := spans.GetSpans()
	require.Len(t, all, 2)
	require.Equal(t, why.Error(), all[0].Status.Description)
	require.Equal(t, "the transaction was rolled back by a panic", all[1].Status.Description)
}

func failing(why error) func(context.Context, bun.Tx) error {
	return func(context.Context, bun.Tx) error { return why }
}

func panicking(context.Context, bun.Tx) error { panic("out of range") }
