package otelcqrs

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
)

// maxLinks is how many links a span keeps by OpenTelemetry's default; those beyond would only be
// counted. The spans in the other traces link back to the batch's, all of them.
const maxLinks = 128

// batch is the spans of one batch: one in each trace that has messages in it. That in the first
// trace stands for the whole batch, and links to all.
type batch struct{ shares []*share }

// describe gives name and attributes for a number of messages that have a topic or model in common,
// "" for none.
type describe func(where string, messages int) (string, []attribute.KeyValue)

// begin starts the spans, of which there is at least one.
func (t *Tracing) begin(
	ctx context.Context, o origins, kind trace.SpanKind, describe describe,
) (context.Context, *batch) {
	links := make([]trace.Link, 0, min(len(o.order), maxLinks))
	var where only
	messages := 0
	for _, s := range o.order {
		if len(links) < maxLinks {
			links = append(links, trace.Link{SpanContext: s.remote})
		}
		messages += s.messages
		where.see(s.where.get())
		where.mixed = where.mixed || s.where.mixed
	}
	start := func(s *share, where string, messages int, links []trace.Link) context.Context {
		name, attributes := describe(where, messages)
		parent := trace.ContextWithRemoteSpanContext(ctx, s.remote)
		var inside context.Context
		inside, s.span = t.tracer.Start(parent, name, trace.WithSpanKind(kind),
			trace.WithLinks(links...), trace.WithAttributes(attributes...))
		return inside
	}
	whole := start(o.order[0], where.get(), messages, links)
	back := trace.Link{SpanContext: o.order[0].span.SpanContext()}
	for _, s := range o.order[1:] {
		start(s, s.where.get(), s.messages, []trace.Link{{SpanContext: s.remote}, back})
	}
	return whole, &batch{o.order}
}

// end ends the spans. failed is what went wrong for all of them.
func (b *batch) end(failed error) {
	n, last := 0, error(nil)
	for _, s := range b.shares {
		if s.first != nil {
			n, last = n+1, s.first
		}
	}
	whole := failed
	switch {
	case last == nil || failed != nil:
	case len(b.shares) == 1:
		whole = last
	default:
		whole = fmt.Errorf("messages of %d of %d traces failed, the last: %w",
			n, len(b.shares), last)
	}
	for _, s := range b.shares[1:] {
		err := s.first
		if err == nil {
			err = failed
		}
		end(s.span, err)
	}
	end(b.shares[0].span, whole)
}
