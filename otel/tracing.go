// Package otelcqrs traces cqrsync with OpenTelemetry: from the transaction of a business span over
// its publication to what replicas make of it.
//
//	tracing := otelcqrs.New(otelcqrs.Config{System: "rabbitmq"})
//	box, err := outbox.New(db, outbox.Config{Trace: tracing.Transaction, Headers: tracing.Headers})
//	rel, err := relay.New(db, tracing.Publisher(publisher), relay.Config{})
//	rep, err := replica.New(db, replica.Config{Queue: "stats", Tracer: tracing})
//
// The context of a transaction's span is stored with its messages, as the headers traceparent and
// tracestate. The relay passes them on unchanged, and every transport carries them. What the relay
// and a replica do with the messages of a sampled trace becomes spans of that trace, which link to
// the message's context. A batch with messages of several traces gets a span of its own, too, with
// links to all of them (to the first 128, see OpenTelemetry's limit), and the spans in the traces
// link back to it.
//
// What is not sampled costs a look at a header per message.
//
// Neighbours: outbox, relay and replica do not know this package, so that only those who want it
// link OpenTelemetry.
package otelcqrs

import (
	"cmp"
	"context"
	"errors"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/replica"
)

// Config says where spans go. The zero value is ready to use.
type Config struct {
	// TracerProvider makes the spans. Default: the global one, as it is when New is called.
	TracerProvider trace.TracerProvider
	// System is the attribute messaging.system: "rabbitmq", "kafka", "nats". Default: none.
	System string
}

// Tracing makes spans. It is safe for concurrent use.
type Tracing struct {
	tracer trace.Tracer
	system []attribute.KeyValue
}

var _ replica.Tracer = (*Tracing)(nil)

// New makes a Tracing.
func New(config Config) *Tracing {
	provider := config.TracerProvider
	if provider == nil {
		provider = otel.GetTracerProvider()
	}
	return &Tracing{
		tracer: provider.Tracer("github.com/cqrsync/cqrsync/otel", trace.WithSchemaURL(schemaURL)),
		system: system(config.System),
	}
}

// propagator reads and writes W3C trace context, which is what messages carry.
var propagator propagation.TraceContext

// Transaction makes a span of a transaction: for Trace of outbox.Config. Its messages carry the
// span's context.
func (t *Tracing) Transaction(ctx context.Context) (context.Context, func(error)) {
	ctx, span := t.tracer.Start(ctx, "transaction")
	return ctx, func(err error) { end(span, err) }
}

// Headers are the trace context as headers of messages: for Headers of outbox.Config. It has none
// where there is no span.
func (t *Tracing) Headers(ctx context.Context) map[string]string {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return nil
	}
	headers := propagation.MapCarrier{}
	propagator.Inject(ctx, headers)
	return headers
}

// Meta is the trace context as meta of messages: for the option outbox.Meta of a model that
// django-cqrs replicas follow, because they are shown no headers.
func (t *Tracing) Meta(ctx context.Context) map[string]any {
	headers := t.Headers(ctx)
	if headers == nil {
		return nil
	}
	meta := make(map[string]any, len(headers))
	for name, value := range headers {
		meta[name] = value
	}
	return meta
}

// end ends a span with what went wrong. A cancelled context is said, and is no error of what the
// span shows: somebody else wanted no more of it.
func end(span trace.Span, err error) {
	if err != nil && span.IsRecording() {
		if errors.Is(err, context.Canceled) {
			span.AddEvent("cancelled")
		} else {
			span.SetStatus(codes.Error, shortened(err.Error()))
		}
	}
	span.End()
}

// shortened is a text as a span's status: exporters and backends refuse what is very long.
func shortened(text string) string {
	const limit = 1000
	if len(text) <= limit {
		return text
	}
	return text[:limit] + "…"
}

// named is a span's name: an operation and, if there is one for all, where it goes.
func named(operation, destination string) string {
	if destination == "" {
		return operation
	}
	return operation + " " + destination
}

// only is the one value of all calls, or "".
type only struct {
	value string
	mixed bool
	any   bool
}

func (o *only) see(value string) {
	o.mixed = o.mixed || o.any && value != o.value
	o.value, o.any = cmp.Or(o.value, value), true
}

func (o *only) get() string {
	if o.mixed {
		return ""
	}
	return o.value
}
