package amqp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.DeadLetterBox = (*Subscriber)(nil)

// DeadLetterQueue implements transport.DeadLetterBox.
func (s *Subscriber) DeadLetterQueue() string {
	return DeadLetterQueue(s.config.Queue.GenerateName(""))
}

// EachDeadLetter implements transport.DeadLetterBox. The user needs the permission to read the
// queue, to send dead letters again that to write to the exchange, and where the queue is a quorum
// queue that to write to the default exchange (amq.default).
//
// A dead letter is taken, and is the broker's again unless it is acknowledged: when the channel is
// closed, or the process has ended. So it keeps its place.
func (s *Subscriber) EachDeadLetter(
	ctx context.Context, queue string, visit func(transport.DeadLetter) (more bool, err error),
) error {
	var visitErr error
	err := s.withDeadLetters(ctx, queue, func(r *deadLetterReader, count int) (err error) {
		visitErr, err = r.read(ctx, count, visit)
		r.closeWriter()
		if err != nil {
			return err
		}
		return s.limited(r.conn, r.channel.Close)
	})
	if visitErr != nil {
		return visitErr // often the connection is gone since, and the channel with it
	}
	return err
}

// PurgeDeadLetters implements transport.DeadLetterBox.
func (s *Subscriber) PurgeDeadLetters(ctx context.Context, queue string) (purged int, err error) {
	err = s.withDeadLetters(ctx, queue, func(r *deadLetterReader, _ int) error {
		return s.limited(r.conn, func() (err error) {
			if purged, err = r.channel.QueuePurge(queue, false); err != nil {
				return err
			}
			return r.channel.Close()
		})
	})
	return purged, err
}

// withDeadLetters calls use with the number of dead letters in a queue that is there.
func (s *Subscriber) withDeadLetters(
	ctx context.Context, queue string, use func(r *deadLetterReader, count int) error,
) error {
	if !s.begin() {
		return errSubscriberClosed
	}
	defer s.users.Done()
	err := s.withChannel(ctx, func(conn *connection, channel *amqp091.Channel) error {
		var state amqp091.Queue
		err := s.limited(conn, func() (err error) {
			state, err = channel.QueueDeclarePassive(queue, true, false, false, false, nil)
			return err
		})
		if err != nil {
			return err
		}
		reader := &deadLetterReader{Subscriber: s, conn: conn, channel: channel, queue: queue}
		return use(reader, state.Messages)
	})
	var reason *amqp091.Error
	if errors.As(err, &reason) && reason.Code == amqp091.NotFound {
		return fmt.Errorf("queue %s: %w", queue, transport.ErrNoDeadLetters)
	}
	if err != nil {
		return fmt.Errorf("dead letters in queue %s: %w", queue, err)
	}
	return nil
}

// deadLetterReader takes the dead letters of a queue, and writes on another channel: an error there
// would give back all that was taken.
type deadLetterReader struct {
	*Subscriber
	conn     *connection
	channel  *amqp091.Channel
	queue    string
	reread   bool // a dead letter has been given back before: this is a quorum queue
	renewing bool // dead letters go to the end of the queue, one after the other

	writer  *amqp091.Channel // nil until something is written
	returns chan amqp091.Return
	closed  chan *amqp091.Error
}

// deliveryCount is the header in which a quorum queue says how often a message was given back. It
// gives those back behind each other, not to where they were: only who takes all of them keeps
// their order. And it drops them at the queue's limit, by default 20 from RabbitMQ 4 on.
const deliveryCount = "x-delivery-count"

// renewAt is how often a dead letter may have been given back. Then it is written anew, which is to
// be long before the limit, of which a client is not told.
const renewAt = 3

// read visits the dead letters. err is about the reading, and visitErr about what the visitor did,
// or what had to be done for it.
func (r *deadLetterReader) read(
	ctx context.Context, count int, visit func(transport.DeadLetter) (more bool, err error),
) (visitErr, err error) {
	more := true
	for range count {
		if visitErr == nil {
			visitErr = context.Cause(ctx)
		}
		if more = more && visitErr == nil; !more && !r.reread {
			break
		}
		delivery, found, err := r.get()
		if err != nil || !found {
			return visitErr, err
		}
		if given := headerCount(delivery); given > 0 {
			r.reread, r.renewing = true, r.renewing || given >= renewAt
		}
		gone := false
		if more {
			more, visitErr = visit(r.letter(ctx, delivery, &gone))
		}
		if r.renewing && !gone {
			if err := r.renew(delivery); err != nil {
				return errors.Join(visitErr, err), nil
			}
		}
	}
	return visitErr, nil
}

func (r *deadLetterReader) get() (delivery amqp091.Delivery, found bool, err error) {
	err = r.limited(r.conn, func() (err error) {
		delivery, found, err = r.channel.Get(r.queue, false)
		return err
	})
	return delivery, found, err
}

func headerCount(delivery amqp091.Delivery) int64 {
	switch n := delivery.Headers[deliveryCount].(type) {
	case int64:
		return n
	case int32:
		return int64(n)
	case int16:
		return int64(n)
	case int8:
		return int64(n)
	case byte:
		return int64(n)
	}
	return 0
}

// letter is a delivery as its visitor sees it. gone becomes true when it is acknowledged.
func (r *deadLetterReader) letter(
	ctx context.Context, delivery amqp091.Delivery, gone *bool,
) transport.DeadLetter {
	msg, _ := Marshaler{}.Unmarshal(delivery) // it never fails
	msg.SetContext(ctx)
	remove := func() error {
		if err := delivery.Ack(false); err != nil {
			return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
		}
		*gone = true
		return nil
	}
	return transport.DeadLetter{
		Message: msg,
		Remove:  remove,
		SendAgain: func(topic string, m *message.Message) error {
			publishing, err := Marshaler{}.Marshal(m)
			if err != nil {
				return err
			}
			maps.DeleteFunc(publishing.Headers, brokersOwn)
			exchange := r.config.Exchange.GenerateName(topic)
			key := r.config.Publish.GenerateRoutingKey(topic)
			if err := r.write(ctx, exchange, key, publishing); err != nil {
				return fmt.Errorf("send a dead letter to %s: %w", key, err)
			}
			return remove()
		},
	}
}

// brokersOwn says that RabbitMQ writes a header itself, where it does not expect another's.
func brokersOwn(name string, _ any) bool {
	return name == deliveryCount || name == "x-acquired-count" || name == "x-death" ||
		strings.HasPrefix(name, "x-first-death-") || strings.HasPrefix(name, "x-last-death-")
}

// renew puts a dead letter to the end of the queue, as one that was never given back. It is done to
// the end where it was begun, for the order.
func (r *deadLetterReader) renew(d amqp091.Delivery) error {
	delete(d.Headers, deliveryCount)
	err := r.write(context.Background(), "", r.queue, amqp091.Publishing{
		Headers: d.Headers, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
		DeliveryMode: d.DeliveryMode, Priority: d.Priority, CorrelationId: d.CorrelationId,
		ReplyTo: d.ReplyTo, Expiration: d.Expiration, MessageId: d.MessageId,
		Timestamp: d.Timestamp, Type: d.Type, AppId: d.AppId, Body: d.Body,
	})
	if err != nil {
		return fmt.Errorf("queue %s would drop dead letters that are read often, so they are "+
			"written anew: %w", r.queue, err)
	}
	return d.Ack(false)
}
