package otelcqrs

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/transport"
)

// Publisher returns p with spans of what goes through it: for relay.New. With a monitor, too, give
// it what the monitor returns: tracing.Publisher(mon.Publisher(publisher)).
func (t *Tracing) Publisher(p message.Publisher) transport.BatchPublisher {
	traced := tracedPublisher{transport.Batch(p), t}
	prober, probes := p.(transport.Prober)
	counter, counts := p.(unroutableCounter)
	switch {
	case probes && counts:
		return struct {
			tracedPublisher
			transport.Prober
			unroutableCounter
		}{traced, prober, counter}
	case probes:
		return struct {
			tracedPublisher
			transport.Prober
		}{traced, prober}
	case counts:
		return struct {
			tracedPublisher
			unroutableCounter
		}{traced, counter}
	}
	return traced
}

// unroutableCounter is what a monitor asks a publisher for, if it can say it.
type unroutableCounter interface{ Unroutable() map[string]int64 }

type tracedPublisher struct {
	transport.BatchPublisher
	tracing *Tracing
}

// PublishBatch implements transport.BatchPublisher. The messages keep the context of the
// transaction that made them: a replica's spans belong to it, and not to this publication, of which
// there may be several.
func (p tracedPublisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	var from origins
	for i := range batch {
		from.see(sentFrom(batch[i].Message), batch[i].Topic)
	}
	if len(from.order) == 0 {
		return p.BatchPublisher.PublishBatch(ctx, batch)
	}
	ctx, spans := p.tracing.begin(ctx, from, trace.SpanKindProducer,
		func(topic string, messages int) (string, []attribute.KeyValue) {
			return named(opPublish, topic), p.tracing.publishing(topic, messages)
		})
	errs := p.BatchPublisher.PublishBatch(ctx, batch)
	for i, err := range errs {
		if err == nil || i >= len(batch) {
			continue
		}
		if s := from.by[sentFrom(batch[i].Message)]; s != nil && s.first == nil {
			s.first = err
		}
	}
	spans.end(nil)
	return errs
}

func sentFrom(m *message.Message) origin {
	return origin{m.Metadata[parentHeader], m.Metadata[stateHeader]}
}
