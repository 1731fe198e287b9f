package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// Subscriber delivers up to a window of messages without waiting for their acks. Its subscriptions
// share a connection, which the first of them makes. Each has a channel; where a connection has no
// room for another one (2,047 by RabbitMQ's default), a further connection is made.
type Subscriber struct {
	config Config
	dialer *dialer

	mu    sync.Mutex // begin against Close
	ended context.Context
	end   context.CancelFunc
	users sync.WaitGroup // subscriptions, and calls that declare

	connecting chan struct{} // holds a token while somebody looks at conns
	conns      []*connection // the next one is made when those before it have no room

	warned atomic.Bool // that a queue which is kept has other properties
}

var (
	_ transport.BatchSubscriber    = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

var errSubscriberClosed = errors.New("the subscriber is closed")

// NewSubscriber checks the configuration. It does not connect.
func NewSubscriber(config Config) (*Subscriber, error) {
	config = config.withDefaults()
	if err := config.validateSubscriber(); err != nil {
		return nil, err
	}
	s := &Subscriber{
		config:     config,
		dialer:     newDialer(config, "cqrsync subscriber"),
		connecting: make(chan struct{}, 1),
	}
	s.ended, s.end = context.WithCancel(context.Background())
	return s, nil
}

// SubscribeInitialize declares exchange, queue and bindings of a topic, so that what is published
// from now on waits for a subscription. The error is as that of SubscribeWindow.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	if !s.begin() {
		return errSubscriberClosed
	}
	defer s.users.Done()
	err := s.build(s.ended, []string{topic})
	if err != nil {
		return fmt.Errorf("create the queue of %s: %w", topic, err)
	}
	return nil
}

// Subscribe delivers the next message when the one before is acknowledged.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return s.SubscribeWindow(ctx, topic, 1)
}

// SubscribeWindow implements transport.WindowSubscriber.
func (s *Subscriber) SubscribeWindow(
	ctx context.Context, topic string, window int,
) (<-chan *message.Message, error) {
	sub, err := s.subscribe(ctx, []string{topic}, window, true)
	if err != nil {
		return nil, err
	}
	return sub.out, nil
}

// SubscribeBatch implements transport.BatchSubscriber.
//
// When it returns, exchange, queue and the bindings of all topics exist. If it cannot get that far
// within the connection timeout, the error is transport.ErrUnavailable: try again. It is another
// one where trying again does not help: the queue exists with other arguments, or the user may not
// declare it.
//
// A subscription lasts until ctx ends or Close; a lost connection or a deleted queue only
// interrupts it. A nacked message comes back at once: waiting before the nack is the receiver's
// affair.
func (s *Subscriber) SubscribeBatch(
	ctx context.Context, topics []string, window int,
) (transport.Subscription, error) {
	if err := names.RequireOneQueue(s.Queue, topics); err != nil {
		return transport.Subscription{}, err
	}
	sub, err := s.subscribe(ctx, topics, window, false)
	if err != nil {
		return transport.Subscription{}, err
	}
	return transport.Subscription{Messages: sub.out, Settle: sub.settle}, nil
}

// Queue implements transport.BatchSubscriber.
func (s *Subscriber) Queue(topic string) string { return s.config.Queue.GenerateName(topic) }

func (s *Subscriber) subscribe(
	ctx context.Context, topics []string, window int, ownAcks bool,
) (*subscription, error) {
	if window < 1 || window > 65535 { // the protocol's prefetch count has 16 bits
		return nil, fmt.Errorf("subscribe to %s: the window is %d, want 1 to 65535",
			names.Name(topics), window)
	}
	if !s.begin() {
		return nil, errSubscriberClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ended, cancel)
	done := func() { stop(); cancel(); s.users.Done() }

	first, err := s.consume(ctx, topics, window)
	if err != nil {
		done()
		return nil, fmt.Errorf("subscribe to %s: %w", names.Name(topics), err)
	}
	sub := newSubscription(s, topics, window, ownAcks)
	go func() {
		defer done()
		sub.run(ctx, first)
	}()
	return sub, nil
}

// Close ends every subscription, gives messages handed out a moment to be acknowledged, and
// disconnects.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.end()
	s.mu.Unlock()
	s.users.Wait()
	s.connecting <- struct{}{}
	defer func() { <-s.connecting }()
	for _, conn := range s.conns {
		conn.close()
	}
	s.conns = nil
	return nil
}

// begin counts a user that Close waits for, unless it is too late.
func (s *Subscriber) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended.Err() != nil {
		return false
	}
	s.users.Add(1)
	return true
}

// consume declares the topics' queue and starts to consume it.
func (s *Subscriber) consume(
	ctx context.Context, topics []string, window int,
) (c *consumer, err error) {
	err = s.withChannel(ctx, func(conn *connection, channel *amqp091.Channel) error {
		if err := s.declare(ctx, conn, channel, topics); err != nil {
			return err
		}
		return s.limited(conn, func() error {
			c, err = s.newConsumer(conn, channel, s.Queue(topics[0]), window)
			return err
		})
	})
	return c, err
}

func (s *Subscriber) newConsumer(
	conn *connection, channel *amqp091.Channel, queue string, window int,
) (c *consumer, err error) {
	if err := channel.Qos(window, 0, false); err != nil {
		return nil, fmt.Errorf("set the window: %w", err)
	}
	tag, consume := "cqrsync-"+watermill.NewShortUUID(), s.config.Consume
	if consume.Consumer != "" {
		tag = consume.Consumer
	}
	c = &consumer{
		conn:    conn,
		channel: channel,
		acker:   newAcker(channel, window),
		tag:     tag,
		closed:  channel.NotifyClose(make(chan *amqp091.Error, 1)),
	}
	c.deliveries, err = channel.Consume(
		queue, tag, false, consume.Exclusive, consume.NoLocal, consume.NoWait, consume.Arguments)
	if err != nil {
		return nil, fmt.Errorf("consume queue %s: %w", queue, err)
	}
	return c, nil
}

// topicsAtOnce is how many topics are declared before the broker is asked whether it is still
// there.
const topicsAtOnce = 25

// declare builds the topology of topics. However many they are, the broker has the time of one call
// for each part of them.
func (s *Subscriber) declare(
	ctx context.Context, conn *connection, channel *amqp091.Channel, topics []string,
) error {
	if s.config.NoDeclare {
		return nil
	}
	built := map[string]bool{}
	for some := range slices.Chunk(topics, topicsAtOnce) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := s.limited(conn, func() error { return s.config.declare(channel, some, built) })
		if err != nil {
			return err
		}
	}
	return nil
}

// limited makes calls to the broker. Others share the connection: it is cut when the broker does
// not answer, not when somebody's context ends.
func (s *Subscriber) limited(conn *connection, call func() error) error {
	ctx, release := conn.limit(context.Background(), s.config.connectTimeout())
	defer release()
	if err := call(); err != nil {
		return because(ctx, err)
	}
	return nil
}

// withChannel calls use with a new channel, and closes it again when use fails.
func (s *Subscriber) withChannel(
	ctx context.Context, use func(*connection, *amqp091.Channel) error,
) error {
	conn, channel, err := s.channel(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	closed := channel.NotifyClose(make(chan *amqp091.Error, 1))
	if err = use(conn, channel); err == nil {
		return nil
	}
	err = closedBecause(closed, err)   // that of a binding nobody waited for
	_ = s.limited(conn, channel.Close) // most errors closed it already
	var reason *amqp091.Error
	if errors.As(err, &reason) && reason.Server {
		switch reason.Code {
		case amqp091.PreconditionFailed:
			return fmt.Errorf("%w (it exists with other properties: delete it, or see exchange "+
				"and queue_type in the URL)", err)
		case amqp091.AccessRefused:
			return fmt.Errorf("%w (the user needs the permissions configure, write and read for "+
				"it)", err)
		}
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

// closedBecause finds the broker's reason behind "closed"; amqp091 delivers it at about the same
// time.
func closedBecause(closed <-chan *amqp091.Error, err error) error {
	if !errors.Is(err, amqp091.ErrClosed) {
		return err
	}
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case reason := <-closed:
		if reason != nil {
			return reason
		}
	case <-timer.C:
	}
	return err
}
