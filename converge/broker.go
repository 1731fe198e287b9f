package converge

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/google/uuid"

	"github.com/cqrsync/cqrsync/transport"
)

// Broker is how a master reaches its replicas.
type Broker struct {
	// Publisher sends to the queues of replicas. Required.
	Publisher message.Publisher
	// Inbox opens what replicas send: a subscriber with a queue for each topic, called like the topic
	// (transport/open.Inbox). Required.
	Inbox func() (message.Subscriber, error)
	// Queue opens the queue of a replica, which is looked after without being consumed. Required.
	Queue func(name string) (Queue, error)
}

// Queue is the queue of a replica. Subscribers of transport's packages are ones.
type Queue interface {
	transport.QueueKeeper
	io.Closer
}

func (b Broker) validate() error {
	var errs []error
	if b.Publisher == nil {
		errs = append(errs, errors.New("Broker.Publisher is nil: pass the relay's publisher"))
	}
	if b.Inbox == nil {
		errs = append(errs, errors.New("Broker.Inbox is nil: return what transport/open.Inbox opens"))
	}
	if b.Queue == nil {
		errs = append(errs, errors.New("Broker.Queue is nil: return what transport/open.Queue opens"))
	}
	return errors.Join(errs...)
}

// envelop makes a message of the conversation.
func envelop(k kind, body []byte) (*message.Message, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, fmt.Errorf("draw a message id: %w", err)
	}
	m := message.NewMessage(id.String(), body)
	m.Metadata.Set(transport.ControlKey, string(k))
	return m, nil
}

// publish sends one message.
func publish(
	ctx context.Context, p transport.BatchPublisher, topic string, m *message.Message,
) error {
	return p.PublishBatch(ctx, []transport.Outgoing{{Topic: topic, Message: m}})[0]
}
