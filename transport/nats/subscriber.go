package nats

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// nackDelay keeps a failing handler from spinning.
const nackDelay = 10 * time.Millisecond

// Subscriber delivers up to a window of messages without waiting for their acks. Its subscriptions
// share a connection, which the first of them makes, and which is made again for as long as it
// takes.
type Subscriber struct {
	config        Config
	subscriptions *delivery.Subscriptions
	ended         context.Context
	end           context.CancelFunc

	connecting chan struct{} // holds a token while somebody looks at what follows
	nc         *natsgo.Conn
	js         jetstream.JetStream
	declared   bool // the streams are there, or were

	mu        sync.Mutex
	consumers map[*consumer]struct{}
}

var (
	_ transport.BatchSubscriber    = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber checks the configuration. It does not connect.
func NewSubscriber(config Config) (*Subscriber, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	s := &Subscriber{
		config:        config,
		subscriptions: &delivery.Subscriptions{NackDelay: nackDelay, Logger: config.Logger},
		connecting:    make(chan struct{}, 1),
		consumers:     map[*consumer]struct{}{},
	}
	s.ended, s.end = context.WithCancel(context.Background())
	return s, nil
}

// Queue implements transport.BatchSubscriber.
func (s *Subscriber) Queue(topic string) string {
	if s.config.Queue == "" {
		return topic
	}
	return s.config.Queue
}

// SubscribeInitialize makes the queue of a topic, and binds it, so that what is published from now
// on waits for a subscription. The error is as that of SubscribeWindow.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	return s.call(s.ended, func(ctx context.Context, q queues) error {
		if err := s.bind(ctx, q, []string{topic}); err != nil {
			return fmt.Errorf("create the queue of %s: %w", topic, err)
		}
		return nil
	})
}

// Subscribe delivers the next message when the one before is acknowledged.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return s.SubscribeWindow(ctx, topic, 1)
}

// SubscribeWindow implements transport.WindowSubscriber.
func (s *Subscriber) SubscribeWindow(
	ctx context.Context, topic string, window int,
) (<-chan *message.Message, error) {
	return s.subscribe(ctx, []string{topic}, window)
}

// SubscribeBatch implements transport.BatchSubscriber.
//
// When it returns, streams, queue and all bindings exist. If it cannot get that far within the
// connect timeout, the error is transport.ErrUnavailable: try again. It is another one where trying
// again does not help. A subscription lasts until ctx ends or Close; a lost connection or a deleted
// queue only interrupts it.
func (s *Subscriber) SubscribeBatch(
	ctx context.Context, topics []string, window int,
) (transport.Subscription, error) {
	if err := names.RequireOneQueue(s.Queue, topics); err != nil {
		return transport.Subscription{}, err
	}
	messages, err := s.subscribe(ctx, topics, window)
	return transport.Subscription{Messages: messages, Settle: delivery.Settle}, err
}

func (s *Subscriber) subscribe(
	ctx context.Context, topics []string, window int,
) (<-chan *message.Message, error) {
	out, err := s.subscriptions.Start(ctx, window, func(ctx context.Context) (delivery.Queue, error) {
		c := newConsumer(s, topics)
		if err := c.join(ctx); err != nil {
			return nil, err
		}
		return c, nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", names.Name(topics), err)
	}
	return out, nil
}

// bind makes the queue of topics, and the one of its dead letters.
func (s *Subscriber) bind(ctx context.Context, q queues, topics []string) error {
	if s.config.Inbox {
		return q.bindInbox(ctx, topics[0])
	}
	queue := s.Queue(topics[0])
	if err := checkQueue(queue); err != nil {
		return err
	}
	if err := q.bind(ctx, queue, topics, true); err != nil {
		return err
	}
	if s.config.Queue == "" {
		return nil
	}
	return q.keepDeadLetters(ctx, queue)
}

// place returns the stream and the consumer of topics.
func (s *Subscriber) place(topics []string) (stream, consumer string) {
	if s.config.Inbox {
		return inboxStream(s.config.Stream), consumerName(topics[0])
	}
	return s.config.Stream, consumerName(s.Queue(topics[0]))
}

// Close ends every subscription, gives messages handed out a moment to be acknowledged, and
// disconnects.
func (s *Subscriber) Close() error {
	s.end()
	s.subscriptions.Close()
	s.connecting <- struct{}{}
	defer func() { <-s.connecting }()
	if s.nc != nil {
		s.nc.Close()
		s.nc = nil
	}
	return nil
}

// call calls do with a connection and the streams, within the connect timeout, unless the
// subscriber is closed.
func (s *Subscriber) call(
	ctx context.Context, do func(ctx context.Context, q queues) error,
) error {
	return s.use(ctx, func(ctx context.Context) error { return s.within(ctx, do) })
}

// use calls do unless the subscriber is closed, and ends it when that is.
func (s *Subscriber) use(ctx context.Context, do func(ctx context.Context) error) error {
	return s.subscriptions.Use(func() error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(s.ended, func() { cancel(delivery.ErrClosed) })()
		return do(ctx)
	})
}

func (s *Subscriber) within(
	ctx context.Context, do func(ctx context.Context, q queues) error,
) error {
	if err := transport.Ended(ctx); err != nil {
		return errors.Join(transport.ErrUnavailable, err)
	}
	ctx, cancel := bounded.Timeout(ctx, 2*s.config.ConnectTimeout, nil)
	defer cancel()
	q, err := s.connect(ctx)
	if err != nil {
		return err
	}
	err = do(ctx, q)
	if errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, natsgo.ErrNoResponders) {
		s.forget() // a stream was deleted
	}
	return err
}

// connect returns the connection, with the streams that are to be there.
func (s *Subscriber) connect(ctx context.Context) (queues, error) {
	select {
	case s.connecting <- struct{}{}:
	case <-ctx.Done():
		return queues{}, fmt.Errorf("%w: %w", transport.ErrUnavailable, context.Cause(ctx))
	}
	defer func() { <-s.connecting }()
	if s.ended.Err() != nil && s.nc == nil {
		return queues{}, delivery.ErrClosed
	}
	if s.nc != nil && !s.nc.IsConnected() {
		return queues{}, fmt.Errorf("%w: the connection is lost", transport.ErrUnavailable)
	}
	if s.nc == nil {
		nc, js, err := s.dial(ctx)
		if err != nil {
			return queues{}, err
		}
		s.nc, s.js = nc, js
	}
	if !s.declared {
		if err := s.config.declare(ctx, s.js); err != nil {
			return queues{}, err
		}
		s.declared = true
	}
	return queues{config: s.config, nc: s.nc, js: s.js}, nil
}

// forget has the streams looked for again.
func (s *Subscriber) forget() {
	s.connecting <- struct{}{}
	defer func() { <-s.connecting }()
	s.declared = false
}

func (s *Subscriber) dial(ctx context.Context) (*natsgo.Conn, jetstream.JetStream, error) {
	log := s.config.Logger
	nc, _, err := s.config.connect(ctx, "cqrsync subscriber",
		natsgo.MaxReconnects(-1),
		natsgo.IgnoreAuthErrorAbort(),
		natsgo.ReconnectWait(250*time.Millisecond),
		natsgo.ErrorHandler(func(_ *natsgo.Conn, _ *natsgo.Subscription, err error) {
			log.Warn("the NATS server says", "error", err)
		}),
		natsgo.DisconnectErrHandler(func(_ *natsgo.Conn, err error) {
			if s.ended.Err() == nil {
				log.Warn("connection to NATS lost: trying again until it is back", "error", err)
			}
		}),
		natsgo.ReconnectHandler(func(*natsgo.Conn) {
			log.Info("connection to NATS is back")
			s.interrupt()
		}))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return nc, js, nil
}

// interrupt tells all subscriptions that the server has forgotten what they asked for.
func (s *Subscriber) interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.consumers {
		c.interrupt(errReconnected)
	}
}
