// Package transport is the seam between cqrsync and a message broker: Watermill's Publisher and
// Subscriber, and optional abilities beside them. One package per broker stands below; package
// transport/open picks one by URL.
//
// A stock Watermill publisher or subscriber works everywhere, only slower.
//
// The topic of a message is its routing key: the CQRS id for a broadcast ("order"), and DirectTopic
// for one queue ("cqrs.webhooks.order"). A subscriber of queue Q that subscribes to topic T
// receives T and DirectTopic(Q, T).
//
// Neighbours: relay publishes through it, replica subscribes through it.
package transport

import (
	"context"
	"errors"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Errors a BatchPublisher reports, per message; ask with errors.Is. Any other error means that this
// one message was refused for what it says, and others may pass.
var (
	// ErrUnavailable says that the broker cannot be reached, is blocked, or did not answer.
	// Whether the message arrived is unknown; publishing it again later is right, and its
	// neighbours have the same trouble.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrUnroutable says that the broker has no queue for the message's topic, and the
	// transport was told to require one.
	ErrUnroutable = errors.New("no queue is bound to the topic")
	// ErrRejected says that the broker read the message and did not keep it (a nack), for
	// example because a queue is full.
	ErrRejected = errors.New("the broker rejected the message")
	// ErrDestination says that the broker takes nothing for where the message goes: the user
	// may not write there, or what should take it does not exist or is something else.
	// Messages that go elsewhere pass.
	ErrDestination = errors.New("the broker takes nothing for this destination")
)

// AtDestination says that an error is about where a message goes, and not about the broker or what
// the message says. It lasts until an operator mends it, and then the same message passes: so
// nobody may give the message up because of it.
func AtDestination(err error) bool {
	return !errors.Is(err, ErrUnavailable) &&
		(errors.Is(err, ErrUnroutable) || errors.Is(err, ErrRejected) ||
			errors.Is(err, ErrDestination))
}

// Outgoing is one message and where it goes.
type Outgoing struct {
	Topic   string
	Message *message.Message
}

// BatchPublisher publishes many messages at once and says of each whether the broker has it.
//
// A plain Publisher returns one error for a whole call, after which nobody knows which messages
// arrived.
type BatchPublisher interface {
	message.Publisher
	// PublishBatch publishes in order and returns when every message's fate is known or ctx ends:
	// one error per message, nil where the broker took responsibility for it. Messages may be
	// published again after an error. Nothing is sent after ctx has ended or its deadline has
	// passed (see Ended): from then on another relay may publish. It is safe for concurrent use;
	// order is kept within a call, not between calls.
	PublishBatch(ctx context.Context, batch []Outgoing) []error
}

// Prober is a publisher that finds out whether the broker would take messages, without sending one.
type Prober interface {
	// Probe connects and logs in, unless it is connected, and returns ErrUnavailable with the
	// reason if it cannot. It returns when ctx ends at the latest.
	Probe(ctx context.Context) error
}

// Probe asks a publisher, and returns nil where it cannot tell.
func Probe(ctx context.Context, p message.Publisher) error {
	if prober, ok := p.(Prober); ok {
		return prober.Probe(ctx)
	}
	return nil
}

// WindowSubscriber delivers up to window messages without waiting for the acks of earlier ones, so
// that a consumer can gather them into one transaction. Acks and nacks stay per message.
type WindowSubscriber interface {
	message.Subscriber
	// SubscribeWindow is Subscribe with room for window (at least 1) unacknowledged messages.
	SubscribeWindow(ctx context.Context, topic string, window int) (<-chan *message.Message, error)
}

// BatchSubscriber is a WindowSubscriber that can be told of many messages at once what became of
// them, and that delivers those of many topics through one consumer. A transaction's worth of acks
// then costs the broker about as much as one, no goroutine waits for each message, and a replica of
// any number of models needs no more than one channel of the broker's.
type BatchSubscriber interface {
	WindowSubscriber
	// Queue names the queue that a topic's messages are delivered from.
	Queue(topic string) string
	// SubscribeBatch is SubscribeWindow to all topics together, for a consumer that calls Settle.
	// The topics, at least one, must have one queue.
	SubscribeBatch(ctx context.Context, topics []string, window int) (Subscription, error)
}

// Subscription is how a consumer receives messages and answers for them.
type Subscription struct {
	// Messages is closed when the subscription has ended. Read it until then, and settle what it
	// still had: only so does another consumer have that soon.
	Messages <-chan *message.Message
	// Settle acknowledges messages, and gives others back to the queue. It is safe for concurrent
	// use; what has been settled already, or was handed out by another subscription, is passed
	// over.
	Settle func(acked, returned []*message.Message)
}

// Ended returns why nothing more may be sent under ctx, nil while something may. A publisher asks
// before each message. It looks at the clock: in a process that was stopped and continued, a
// deadline may have passed of which no timer has told yet. The deadline may move, so ask for it
// each time.
func Ended(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if deadline, limited := ctx.Deadline(); limited && !time.Now().Before(deadline) {
		return context.DeadlineExceeded
	}
	return nil
}

// DirectTopic is the topic that reaches one queue only: a requested sync, or a message sent again
// to one replica. The form is django-cqrs's.
func DirectTopic(queue, topic string) string { return "cqrs." + queue + "." + topic }

// DirectKey is the metadata key by which a subscriber tells that a delivery's topic is DirectTopic
// of its queue: that the message is for this queue alone, which a django-cqrs master says by the
// routing key only. It does not travel.
const DirectKey = "cqrsync_direct"

// ExpirationKey is the metadata key of a publisher's wish: when a message has waited in a queue for
// so many milliseconds, the broker drops it instead of handing it out. The value is a whole number
// from 0 to 315360000000 (ten years, RabbitMQ's limit); another one makes the publisher refuse the
// message. It does not travel with the message.
const ExpirationKey = "cqrsync_expiration"

// Batch makes a BatchPublisher of any publisher. One that has the ability already is returned as it
// is; for others every message is its own Publish call, and after an error the rest of the batch is
// reported unavailable, because sending it would overtake: except where the publisher says that it
// is the destination's (AtDestination).
func Batch(p message.Publisher) BatchPublisher {
	if b, ok := p.(BatchPublisher); ok {
		return b
	}
	return single{p}
}

type single struct{ message.Publisher }

func (s single) PublishBatch(ctx context.Context, batch []Outgoing) []error {
	errs := make([]error, len(batch))
	for i, out := range batch {
		err := Ended(ctx)
		if err == nil {
			out.Message.SetContext(ctx)
			err = s.Publish(out.Topic, out.Message)
		}
		if err == nil || AtDestination(err) {
			errs[i] = err
			continue
		}
		// Publish does not say whose fault it was. Taking it for the broker's never loses or parks
		// a message.
		err = errors.Join(ErrUnavailable, err)
		for ; i < len(batch); i++ {
			errs[i] = err
		}
		break
	}
	return errs
}
