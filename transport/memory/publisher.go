package memory

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

var errClosed = fmt.Errorf("%w: the publisher is closed", transport.ErrUnavailable)

// Publisher puts messages into the queues bound to their topic. It is safe for concurrent use.
type Publisher struct {
	// RequireQueue refuses a message for a topic that no queue is bound to:
	// transport.ErrUnroutable. Default: it is dropped. Set it before the first message.
	RequireQueue bool

	broker *Broker
	closed atomic.Bool
}

var _ transport.BatchPublisher = (*Publisher)(nil)

// Publisher returns a new publisher.
func (b *Broker) Publisher() *Publisher { return &Publisher{broker: b} }

// Publish publishes the messages to one topic, and returns what is wrong with any of them, joined.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	batch := make([]transport.Outgoing, len(messages))
	for i, msg := range messages {
		batch[i] = transport.Outgoing{Topic: topic, Message: msg}
	}
	if p.closed.Load() {
		return errClosed
	}
	return errors.Join(p.broker.publish(batch, p.RequireQueue)...)
}

// PublishBatch publishes all messages, in order and at once, unless ctx has ended. One that is
// refused for what it says, or has no queue that takes it, stops none of the others.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	err := transport.Ended(ctx)
	switch {
	case p.closed.Load():
		err = errClosed
	case err != nil:
		err = errors.Join(transport.ErrUnavailable, err)
	default:
		return p.broker.publish(batch, p.RequireQueue)
	}
	for i := range errs {
		errs[i] = err
	}
	return errs
}

// Close lets further calls fail. Closing twice is fine.
func (p *Publisher) Close() error {
	p.closed.Store(true)
	return nil
}
