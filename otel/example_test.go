package otelcqrs_test

import (
	"context"
	"fmt"
	"slices"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/cqrsync/cqrsync/envelope"
	otelcqrs "github.com/cqrsync/cqrsync/otel"
)

// A transaction's context travels with its messages, and what a replica makes of them is of the
// same trace. Give Transaction and Headers to outbox.Config, the Tracing to replica.Config, and
// what Publisher returns to relay.New.
func Example() {
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	tracing := otelcqrs.New(otelcqrs.Config{TracerProvider: provider})

	ctx, end := tracing.Transaction(context.Background())
	m := envelope.Message{Model: "order", Headers: tracing.Headers(ctx)}
	end(nil)

	_, end = tracing.Apply(context.Background(), "stats", slices.Values([]*envelope.Message{&m}))
	end(nil)
	for _, span := range spans.GetSpans() {
		first := spans.GetSpans()[0].SpanContext
		fmt.Println(span.Name, span.SpanKind, span.SpanContext.TraceID() == first.TraceID())
	}
	// Output:
	// transaction internal true
	// process stats consumer true
}
