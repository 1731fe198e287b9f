package amqp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

// drainTimeout is how long messages handed out may still be acknowledged after a subscription ended. What is not comes
// again, to another consumer of the queue or the next start.
const drainTimeout = 2 * time.Second

// subscription outlives the consumers it reads from.
type subscription struct {
	subscriber *Subscriber
	topic      string
	window     int
	out        chan *message.Message
	// room has a token for every message handed out and not settled. The broker's own count starts anew with every
	// connection; without this one a reconnect would exceed the window, and a window of 1 would lose its order.
	room chan struct{}
	over chan struct{} // closed when no more acks are awaited
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

func newSubscription(s *Subscriber, topic string, window int) *subscription {
	return &subscription{
		subscriber: s,
		topic:      topic,
		window:     window,
		out:        make(chan *message.Message),
		room:       make(chan struct{}, window),
		over:       make(chan struct{}),
	}
}

// run delivers until ctx ends, from one consumer after the other.
func (s *subscription) run(ctx context.Context, c *consumer) {
	defer close(s.out)
	log := s.subscriber.config.Logger.With("topic", s.topic)
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

// hand waits for room and a reader. It does not mind when the connection is lost meanwhile: the message then comes a
// second time, which receivers must bear anyway.
func (s *subscription) hand(ctx context.Context, acker *acker, delivery amqp091.Delivery) error {
	msg, err := s.subscriber.config.Marshaler.Unmarshal(delivery)
	if err != nil { // never from Marshaler; the message comes again, after a pause
		return fmt.Errorf("unmarshal: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	msg.SetContext(ctx)
	select {
	case <-ctx.Done():
		cancel()
		return nil
	case s.room <- struct{}{}:
	}
	select {
	case <-ctx.Done():
		cancel()
		<-s.room
	case s.out <- msg:
		go s.settle(msg, acker, delivery.DeliveryTag, cancel)
	}
	return nil
}

// settle passes one ack or nack on.
func (s *subscription) settle(msg *message.Message, acker *acker, tag uint64, cancel context.CancelFunc) {
	select {
	case <-msg.Acked():
		acker.ack(tag)
	case <-msg.Nacked():
		acker.nack(tag, !s.subscriber.config.Consume.NoRequeueOnNack)
	case <-s.over:
	}
	cancel()
	<-s.room
}

// resume tries for ever to consume again; nil means that ctx ended.
func (s *subscription) resume(ctx context.Context) *consumer {
	pause := newBackOff(s.subscriber.config)
	for wait(ctx, pause.NextBackOff()) == nil {
		c, err := s.subscriber.consume(ctx, s.topic, s.window)
		if err == nil {
			return c
		}
		level := slog.LevelWarn // somebody has to do something
		if errors.Is(err, transport.ErrUnavailable) {
			level = slog.LevelDebug // or rather, wait
		}
		s.subscriber.config.Logger.Log(ctx, level, "subscription not resumed yet", "topic", s.topic, "error", err)
	}
	return nil
}

// leave stops the deliveries, then waits for acks, then gives the rest back by closing the channel: in this order, or
// every ack would draw a message that nobody reads and that counts as delivered.
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
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for settled := 0; settled < s.window; {
		select {
		case s.room <- struct{}{}:
			settled++
		case <-timer.C:
			close(s.over)
		}
	}
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
