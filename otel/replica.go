package otelcqrs

import (
	"context"
	"iter"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/envelope"
)

type batchKey struct{}

// Apply implements replica.Tracer: a try to apply a batch is a span in each trace that has messages
// in it.
func (t *Tracing) Apply(
	ctx context.Context, queue string, messages iter.Seq[*envelope.Message],
) (context.Context, func(error)) {
	var from origins
	for m := range messages {
		from.see(originOf(m), m.Model)
	}
	if len(from.order) == 0 {
		return ctx, func(error) {}
	}
	ctx, spans := t.begin(ctx, from, trace.SpanKindConsumer,
		func(model string, messages int) (string, []attribute.KeyValue) {
			return named(opProcess, queue), t.processing(queue, model, messages)
		})
	return context.WithValue(ctx, batchKey{}, &from), spans.end
}

// Handle implements replica.Tracer: a call of a handler is a span within Apply's. Where the trace
// is not recorded the handler's context still carries it, so that what the handler calls, or writes
// itself, belongs to the same trace and is not recorded either.
func (t *Tracing) Handle(
	ctx context.Context, m *envelope.Message,
) (context.Context, func(error)) {
	made := originOf(m)
	if from, is := ctx.Value(batchKey{}).(*origins); is {
		if s := from.by[made]; s != nil {
			ctx, span := t.tracer.Start(trace.ContextWithSpan(ctx, s.span),
				named(opHandle, m.Model), trace.WithAttributes(modelKey.String(m.Model),
					keyKey.String(m.Key), revisionKey.Int64(m.Revision),
					signalKey.String(string(m.Signal))))
			return ctx, func(err error) { end(span, err) }
		}
	}
	// Not the batch's span: that is of other messages.
	remote := made.context()
	return trace.ContextWithRemoteSpanContext(ctx, remote), func(error) {}
}
