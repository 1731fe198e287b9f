package transport

import (
	"context"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"
)

// All publishes to several brokers at once: a relay with it has replicas on each of them. A message
// is published when every broker has it, so while one of them is away nothing leaves the outbox,
// and what the others have got already they get again. It is unroutable only where no broker has a
// queue for its topic: of a message to one queue, all but one have none.
//
// Close closes all publishers.
func All(publishers ...message.Publisher) BatchPublisher {
	all := make(everywhere, len(publishers))
	for i, p := range publishers {
		all[i] = Batch(p)
	}
	return all
}

type everywhere []BatchPublisher

var _ Prober = everywhere{}

// PublishBatch implements BatchPublisher.
func (e everywhere) PublishBatch(ctx context.Context, batch []Outgoing) []error {
	of := make([][]error, len(e))
	var publishing sync.WaitGroup
	for i, p := range e {
		publishing.Go(func() { of[i] = p.PublishBatch(ctx, copied(batch)) })
	}
	publishing.Wait()
	errs := make([]error, len(batch))
	for i := range batch {
		one := make([]error, len(e))
		for at := range e {
			one[at] = of[at][i]
		}
		errs[i] = together(one)
	}
	return errs
}

// copied is for one of several publishers: what it does to a message, as setting its context, is
// not seen by the others.
func copied(batch []Outgoing) []Outgoing {
	all := make([]Outgoing, len(batch))
	for i, out := range batch {
		all[i] = Outgoing{Topic: out.Topic, Message: out.Message.Copy()}
	}
	return all
}

// together is what becomes of a message of which several brokers have said something.
func together(of []error) error {
	var errs, unroutable []error
	for _, err := range of {
		if errors.Is(err, ErrUnroutable) {
			unroutable = append(unroutable, err)
		} else {
			errs = append(errs, err)
		}
	}
	if len(unroutable) == len(of) {
		return errors.Join(unroutable...)
	}
	return errors.Join(errs...)
}

// Publish implements message.Publisher.
func (e everywhere) Publish(topic string, messages ...*message.Message) error {
	errs := make([]error, len(e))
	for i, p := range e {
		mine := make([]*message.Message, len(messages))
		for n, msg := range messages {
			mine[n] = msg.Copy()
			mine[n].SetContext(msg.Context())
		}
		errs[i] = p.Publish(topic, mine...)
	}
	return together(errs)
}

// Probe implements Prober: all brokers must be there.
func (e everywhere) Probe(ctx context.Context) error {
	var errs []error
	for _, p := range e {
		errs = append(errs, Probe(ctx, p))
	}
	return errors.Join(errs...)
}

// Close closes all publishers.
func (e everywhere) Close() error {
	var errs []error
	for _, p := range e {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
