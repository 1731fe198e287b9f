package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/semaphore"

	"github.com/cqrsync/cqrsync/transport"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// drainTimeout is how long messages handed out may still be acknowledged after a subscription
// ended. What is not comes again, to another consumer of the queue or the next start.
const drainTimeout = 2 * time.Second

// subscription outlives the consumers it reads from.
type subscription struct {
	subscriber *Subscriber
	topics     []string
	window     int
	ownAcks    bool // Ack and Nack of the messages count, and settle is not called
	out        chan *message.Message
	// room is the window less the messages handed out and not settled. The broker's own count
	// starts anew with every connection; without this one a reconnect would exceed the window, and
	// a window of 1 would lose its order.
	room *semaphore.Weighted
	over chan struct{} // closed when no more acks are awaited

	mu     sync.Mutex
	handed map[*message.Message]place // handed out and not settled
}

// place is where the broker awaits the ack of a message.
type place struct {
	acker *acker
	tag   uint64
	end   context.CancelFunc // of the message's context
}

// consumer is a subscription's presence on one channel.
type consumer struct {
	conn       *connection
	channel    *amqp091.Channel
	acker      *acker
	tag        string
	deliveries <-chan amqp091.Delivery
	closed     <-chan *amqp091.Error
}

var errConsumerEnded = errors.New("the broker ended the consumer: is the queue deleted?")

// readAhead is how many messages may lie ready for a consumer that settles batches, so that neither
// waits for the other at each. It gives back what it does not take; who acknowledges single
// messages may not, and gets them one by one.
const readAhead = 64

func newSubscription(s *Subscriber, topics []string, window int, ownAcks bool) *subscription {
	sub := &subscription{
		subscriber: s,
		topics:     topics,
		window:     window,
		ownAcks:    ownAcks,
		out:        make(chan *message.Message),
		room:       semaphore.NewWeighted(int64(window)),
		over:       make(chan struct{}),
		handed:     map[*message.Message]place{},
	}
	if !ownAcks {
		sub.out = make(chan *message.Message, readAhead)
	}
	return sub
}

// run delivers until ctx ends, from one consumer after the other.
func (s *subscription) run(ctx context.Context, c *consumer) {
	defer close(s.out)
	log := s.subscriber.config.Logger.With("topic", names.Name(s.topics))
	for c != nil {
		err := s.deliver(ctx, c)
		if ctx.Err() != nil {
			s.leave(c)
			return
		}
		log.Warn("subscription interrupted", "error", err)
		c.close()
		if c = s.resume(ctx); c != nil {
			log.Info("subscription resumed")
		}
	}
	s.drain(0) // an ack without a channel is worth nothing
}

// deliver hands out messages until ctx ends, or the consumer does: then it returns why.
func (s *subscription) deliver(ctx context.Context, c *consumer) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case delivery, open := <-c.deliveries:
			if !open {
				return c.reason()
			}
			if err := s.hand(ctx, c.acker, delivery); err != nil {
				return err
			}
		}
	}
}

// hand waits for room and a reader. It does not mind when the connection is lost meanwhile: the
// message then comes a second time, which receivers must bear anyway.
func (s *subscription) hand(ctx context.Context, from *acker, delivery amqp091.Delivery) error {
	msg, err := s.subscriber.config.Marshaler.Unmarshal(delivery)
	if err != nil { // never from Marshaler; the message comes again, after a pause
		return fmt.Errorf("unmarshal: %w", err)
	}
	s.noteDirect(msg, delivery.RoutingKey)
	if err := s.room.Acquire(ctx, 1); err != nil {
		return err // ctx has ended
	}
	at := place{acker: from, tag: delivery.DeliveryTag, end: func() {}}
	if s.ownAcks {
		ctx, at.end = context.WithCancel(ctx)
	}
	msg.SetContext(ctx)
	s.mu.Lock()
	s.handed[msg] = at
	s.mu.Unlock()
	select {
	case <-ctx.Done(): // the broker has it back when the channel closes
		s.answer([]*message.Message{msg}, func(*acker, []uint64) {})
	case s.out <- msg:
		if s.ownAcks {
			go s.await(msg)
		}
	}
	return nil
}

// noteDirect tells a message for this queue alone, which the routing key says, from a broadcast.
func (s *subscription) noteDirect(msg *message.Message, routingKey string) {
	queue := s.subscriber.Queue(s.topics[0]) // that of all topics
	delete(msg.Metadata, transport.DirectKey)
	if strings.HasPrefix(routingKey, transport.DirectTopic(queue, "")) {
		msg.Metadata.Set(transport.DirectKey, "true")
	}
}

// await passes the ack or nack of one message on.
func (s *subscription) await(msg *message.Message) {
	select {
	case <-msg.Acked():
		s.settle([]*message.Message{msg}, nil)
	case <-msg.Nacked():
		s.settle(nil, []*message.Message{msg})
	case <-s.over:
	}
}

// settle passes acks and nacks on.
func (s *subscription) settle(acked, returned []*message.Message) {
	requeue := !s.subscriber.config.Consume.NoRequeueOnNack
	s.answer(returned, func(a *acker, tags []uint64) { a.nack(requeue, tags...) })
	s.answer(acked, func(a *acker, tags []uint64) { a.ack(tags...) })
}

// answer tells the channels that messages came from, and makes room for others.
func (s *subscription) answer(messages []*message.Message, tell func(*acker, []uint64)) {
	tags := map[*acker][]uint64{}
	room := int64(0)
	s.mu.Lock()
	for _, msg := range messages {
		if at, handed := s.handed[msg]; handed {
			delete(s.handed, msg)
			at.end()
			tags[at.acker] = append(tags[at.acker], at.tag)
			room++
		}
	}
	s.mu.Unlock()
	for acker, tags := range tags {
		tell(acker, tags)
	}
	s.room.Release(room)
}

// resume tries for ever to consume again; nil means that ctx ended.
func (s *subscription) resume(ctx context.Context) *consumer {
	pause := newBackOff(s.subscriber.config)
	for wait(ctx, pause.NextBackOff()) == nil {
		c, err := s.subscriber.consume(ctx, s.topics, s.window)
		if err == nil {
			return c
		}
		level := slog.LevelWarn // somebody has to do something
		if errors.Is(err, transport.ErrUnavailable) {
			level = slog.LevelDebug // or rather, wait
		}
		s.subscriber.config.Logger.Log(ctx, level, "subscription not resumed yet",
			"topic", names.Name(s.topics), "error", err)
	}
	return nil
}

// leave stops the deliveries, then waits for acks, then gives the rest back by closing the channel:
// in this order, or every ack would draw a message that nobody reads and that counts as delivered.
func (s *subscription) leave(c *consumer) {
	timer := time.AfterFunc(closeTimeout, c.conn.cut)
	limit := drainTimeout
	if c.channel.Cancel(c.tag, false) != nil {
		limit = 0 // the connection is lost, and with it the acks
	}
	timer.Stop()
	s.drain(limit)
	c.close()
}

// drain returns when every message handed out is settled, or will not be.
func (s *subscription) drain(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if s.room.Acquire(ctx, int64(s.window)) == nil {
		return
	}
	close(s.over)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.handed {
		at.end()
	}
	clear(s.handed)
}

func (c *consumer) close() {
	timer := time.AfterFunc(closeTimeout, c.conn.cut)
	defer timer.Stop()
	_ = c.channel.Close() // an error means that it is closed already
}

func (c *consumer) reason() error {
	select {
	case reason := <-c.closed:
		if reason != nil {
			return reason
		}
	default:
	}
	return errConsumerEnded
}
