package otelcqrs

import (
	"context"
	"encoding/json"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/cqrsync/cqrsync/envelope"
)

// The names of W3C trace context.
const (
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
)

// origin is the context in which a message was made, as it travels.
type origin struct{ parent, state string }

// originOf finds a message's origin: in its headers, or, where it came through Django, which passes
// no headers on, in its meta.
func originOf(m *envelope.Message) origin {
	if parent := m.Headers[parentHeader]; parent != "" {
		return origin{parent, m.Headers[stateHeader]}
	}
	if len(m.Meta) == 0 {
		return origin{}
	}
	var meta struct {
		Parent any `json:"traceparent"`
		State  any `json:"tracestate"`
	}
	if json.Unmarshal(m.Meta, &meta) != nil { // meta need not be an object
		return origin{}
	}
	parent, _ := meta.Parent.(string)
	state, _ := meta.State.(string)
	return origin{parent, state}
}

// Where traceparent has its flags, in version 00 and in all that are compatible with it.
const flagsAt, flagsEnd = 53, 55

// sampled says, without reading the rest, that a trace is recorded.
func (o origin) sampled() bool {
	if len(o.parent) < flagsEnd {
		return false
	}
	switch c := o.parent[flagsEnd-1]; { // the lowest bit of a hexadecimal digit
	case c >= '0' && c <= '9':
		return (c-'0')&1 == 1
	case c >= 'a' && c <= 'f':
		return (c-'a')&1 == 1 // a is ten
	}
	return false
}

// context reads the origin. It is invalid where the headers were.
func (o origin) context() trace.SpanContext {
	if o.parent == "" {
		return trace.SpanContext{}
	}
	ctx := propagator.Extract(context.Background(),
		propagation.MapCarrier{parentHeader: o.parent, stateHeader: o.state})
	return trace.SpanContextFromContext(ctx)
}

// origins counts a batch's messages by the sampled traces that they come from.
type origins struct {
	order []*share
	by    map[origin]*share
}

// share is what one origin has of a batch.
type share struct {
	remote   trace.SpanContext
	messages int
	where    only // their topic or model
	first    error
	span     trace.Span
}

// see adds a message, unless its trace is not recorded.
func (o *origins) see(from origin, where string) {
	if !from.sampled() {
		return
	}
	s, known := o.by[from]
	if !known {
		if remote := from.context(); remote.IsValid() {
			s = &share{remote: remote}
			o.order = append(o.order, s)
		}
		if o.by == nil {
			o.by = map[origin]*share{}
		}
		o.by[from] = s
	}
	if s != nil {
		s.messages++
		s.where.see(where)
	}
}
