package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	goredis "github.com/redis/go-redis/v9"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// nackDelay keeps a failing handler from spinning.
const nackDelay = 10 * time.Millisecond

// Subscriber delivers up to a window of messages without waiting for their acks. Its subscriptions
// share a few connections, which are made when they are needed.
type Subscriber struct {
	config        Config
	subscriptions *delivery.Subscriptions
	ended         context.Context
	end           context.CancelFunc
	client        *goredis.Client
	calling       sync.WaitGroup

	mu      sync.Mutex
	checked bool // that the server can be used
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
		client:        config.client("cqrsync-subscriber", nil),
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
	return s.call(s.ended, func(ctx context.Context) error {
		if err := s.bind(ctx, []string{topic}); err != nil {
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
// When it returns, queue and bindings exist. If it cannot get that far within the connect timeout,
// the error is transport.ErrUnavailable: try again. A subscription lasts until ctx ends or Close; a
// lost connection or a deleted queue only interrupts it.
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
		c.begin()
		return c, nil
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", names.Name(topics), err)
	}
	return out, nil
}

// bind makes the queue of topics, and the one of its dead letters.
func (s *Subscriber) bind(ctx context.Context, topics []string) error {
	queue := s.Queue(topics[0])
	if _, err := s.bindQueue(ctx, queue, topics, true); err != nil || s.config.Queue == "" {
		return err
	}
	_, err := s.bindQueue(ctx, deadLetterQueue(queue), topics, true)
	return err
}

// bindQueue binds a queue to topics, one of dead letters to its direct topics alone.
func (s *Subscriber) bindQueue(
	ctx context.Context, queue string, topics []string, make bool,
) (there bool, err error) {
	arguments := []any{s.config.Prefix, queue, flag(make), flag(s.config.Inbox)}
	for _, topic := range topics {
		if err := checkTopic(topic); err != nil {
			return false, err
		}
		direct := transport.DirectTopic(queue, topic)
		switch {
		case s.config.Inbox:
			arguments = append(arguments, topic)
		case s.config.Queue != "" && queue == deadLetterQueue(s.config.Queue):
			arguments = append(arguments, direct)
		default:
			arguments = append(arguments, topic, direct)
		}
	}
	n, err := bindScript.Run(ctx, s.client, nil, arguments...).Int()
	if err != nil {
		return false, explain(ctx, err)
	}
	return n == 1, nil
}

func flag(set bool) string {
	if set {
		return "1"
	}
	return "0"
}

// Close ends every subscription, gives messages handed out a moment to be acknowledged, and
// disconnects.
func (s *Subscriber) Close() error {
	s.end()
	first := s.subscriptions.Close()
	s.calling.Wait()
	if first {
		_ = s.client.Close() // nothing is under way
	}
	return nil
}

// call calls do within the connect timeout, unless the subscriber is closed, and returns when ctx
// ends, whether the server answers or not.
func (s *Subscriber) call(ctx context.Context, do func(ctx context.Context) error) error {
	return s.subscriptions.Use(func() error {
		if err := transport.Ended(ctx); err != nil {
			return errors.Join(transport.ErrUnavailable, err)
		}
		ctx, cancel := bounded.Timeout(ctx, s.config.ConnectTimeout, nil)
		defer cancel()
		return s.promptly(ctx, func() error {
			if err := s.check(ctx); err != nil {
				return err
			}
			return do(ctx)
		})
	})
}

// promptly returns when ctx ends. What do has begun by then has the time of a call, and Close waits
// for it.
func (s *Subscriber) promptly(ctx context.Context, do func() error) error {
	done := make(chan error, 1)
	s.calling.Go(func() { done <- do() })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, context.Cause(ctx))
	case <-s.ended.Done():
		return delivery.ErrClosed
	}
}

// check looks once what server that is.
func (s *Subscriber) check(ctx context.Context) error {
	s.mu.Lock()
	checked := s.checked
	s.mu.Unlock()
	if checked {
		return nil
	}
	warning, err := check(ctx, s.client)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if warning != "" && !s.checked {
		s.config.Logger.WarnContext(ctx, warning)
	}
	s.checked = true
	return nil
}
