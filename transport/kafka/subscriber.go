package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// nackDelay keeps a failing handler from spinning.
const nackDelay = 10 * time.Millisecond

// Subscriber delivers up to a window of messages without waiting for their acks. Each of its
// subscriptions is a member of the queue's consumer group.
type Subscriber struct {
	config        Config
	subscriptions *delivery.Subscriptions
	ended         context.Context
	end           context.CancelFunc
	admin         *kadm.Client
	letters       *Publisher // of dead letters that are sent again

	mu     sync.Mutex
	noted  map[string]time.Time // when the bindings of a queue were written again
	closed bool
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
	again := config
	again.DropUnroutable, again.Queue, again.Inbox = false, "", false
	letters, err := NewPublisher(again)
	if err != nil {
		return nil, err
	}
	client, err := config.client("cqrsync-subscriber", nil)
	if err != nil {
		return nil, err
	}
	s := &Subscriber{
		config:        config,
		subscriptions: &delivery.Subscriptions{NackDelay: nackDelay, Logger: config.Logger},
		admin:         kadm.NewClient(client),
		letters:       letters,
		noted:         map[string]time.Time{},
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
		return s.join(ctx, topics)
	})
	if err != nil {
		return nil, fmt.Errorf("subscribe to %s: %w", names.Name(topics), err)
	}
	return out, nil
}

// join makes the queue, binds it, and becomes a member of its group.
func (s *Subscriber) join(ctx context.Context, topics []string) (c *consumer, err error) {
	err = s.within(ctx, func(ctx context.Context, q queues) error {
		if err := s.bind(ctx, q, topics); err != nil {
			return err
		}
		bound, err := q.bound(ctx, s.Queue(topics[0]))
		if err != nil {
			return err
		}
		c, err = newConsumer(s, topics, bound)
		return err
	})
	return c, err
}

// bind makes the queue of topics, and the one of its dead letters.
func (s *Subscriber) bind(ctx context.Context, q queues, topics []string) error {
	queue := s.Queue(topics[0])
	if s.config.Inbox {
		return q.bind(ctx, queue, []place{q.inbox(topics[0])}, true)
	}
	if err := s.bindQueue(ctx, q, topics, true); err != nil || s.config.Queue == "" {
		return err
	}
	letters := deadLetterQueue(queue)
	return q.bind(ctx, letters, []place{q.dead(letters)}, true)
}

// bindQueue binds a queue to topics.
func (s *Subscriber) bindQueue(
	ctx context.Context, q queues, topics []string, make bool,
) error {
	queue := s.Queue(topics[0])
	if err := checkQueue(queue); err != nil {
		return err
	}
	var places []place
	if isDeadLetterQueue(queue) {
		places = append(places, q.dead(queue))
	} else {
		places = append(places, q.direct(queue))
	}
	for _, topic := range topics {
		p := q.model(topic)
		if topic == "" {
			return errors.New("the topic is empty")
		}
		if err := checkName(topic, p.name); err != nil {
			return err
		}
		places = append(places, p)
	}
	if err := q.bind(ctx, queue, places, make); err != nil {
		return err
	}
	return s.renew(ctx, q, queue)
}

// renewBindings is how often bindings are written again: brokers forget those of a week ago.
const renewBindings = time.Hour

// renew writes the bindings of a queue as they are, from time to time.
func (s *Subscriber) renew(ctx context.Context, q queues, queue string) error {
	s.mu.Lock()
	last, known := s.noted[queue]
	due := !known || time.Since(last) > renewBindings
	if due {
		s.noted[queue] = time.Now()
	}
	s.mu.Unlock()
	if !due {
		return nil
	}
	bound, err := q.bound(ctx, queue)
	if err != nil {
		return err
	}
	return q.note(ctx, q.config.boundGroup(queue), bound, "")
}

// Close ends every subscription, gives messages handed out a moment to be acknowledged, and
// disconnects.
func (s *Subscriber) Close() error {
	s.end()
	s.subscriptions.Close()
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		s.admin.Close()
	}
	return s.letters.Close()
}

// call calls do within the connect timeout, unless the subscriber is closed.
func (s *Subscriber) call(
	ctx context.Context, do func(ctx context.Context, q queues) error,
) error {
	return s.subscriptions.Use(func() error { return s.within(ctx, do) })
}

func (s *Subscriber) within(
	ctx context.Context, do func(ctx context.Context, q queues) error,
) error {
	if err := transport.Ended(ctx); err != nil {
		return errors.Join(transport.ErrUnavailable, err)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(s.ended, func() { stop(delivery.ErrClosed) })()
	ctx, cancel := bounded.Timeout(ctx, s.config.ConnectTimeout, nil)
	defer cancel()
	for {
		err := do(ctx, queues{s.config, s.admin})
		if !passing(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return explain(ctx, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
