package replica

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/cqrsync/cqrsync/envelope"
)

// Tracer makes spans of what a replica does. Its methods are called concurrently, and must not
// change the messages. The functions they return are called once each.
type Tracer interface {
	// Apply is called before a try to apply a batch of messages, which has at least one, with the
	// queue's name. The try runs with the context that it returns; the function is called with what
	// went wrong when it is over: an error of the try, or of one of its messages.
	Apply(ctx context.Context, queue string, messages iter.Seq[*envelope.Message],
	) (context.Context, func(error))
	// Handle is called before a handler of one message, within Apply's try and with its context.
	// The handler runs with the context that it returns.
	Handle(ctx context.Context, m *envelope.Message) (context.Context, func(error))
}

// traced is a try of a batch that a tracer sees.
func (b *batch) traced(ctx context.Context) error {
	tracer := b.engine.config.Tracer
	if tracer == nil {
		return b.try(ctx)
	}
	b.failures = nil
	ctx, end := tracer.Apply(ctx, b.engine.config.Queue, b.messages())
	err := b.try(ctx)
	switch {
	case err != nil:
		end(err)
	case len(b.failures) > 0:
		end(fmt.Errorf("messages failed: %d, the first: %w", len(b.failures), b.failures[0].err))
	default:
		end(nil)
	}
	return err
}

// messages are those of the batch that could be read.
func (b *batch) messages() iter.Seq[*envelope.Message] {
	return func(yield func(*envelope.Message) bool) {
		for _, c := range b.chains {
			for _, d := range c.deliveries {
				if d.message != nil && !yield(d.message) {
					return
				}
			}
		}
	}
}

// handle calls a handler of one message, as a tracer sees it.
func (e *engine) handle(
	ctx context.Context, d *delivery, call func(context.Context) error,
) error {
	if e.config.Tracer == nil {
		return e.guard(ctx, d.ctx, call)
	}
	return e.guard(ctx, d.ctx, func(ctx context.Context) error {
		ctx, end := e.config.Tracer.Handle(ctx, d.message)
		over := errPanicked
		defer func() { end(over) }()
		over = call(ctx)
		return over
	})
}

var errPanicked = errors.New("the handler panicked")
