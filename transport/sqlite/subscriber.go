package sqlite

import (
	"context"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// Subscriber consumes one queue, or one queue per topic. It is safe for concurrent use.
type Subscriber struct {
	config        Config
	file          *file
	subscriptions delivery.Subscriptions
}

var (
	_ transport.BatchSubscriber    = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// NewSubscriber does not touch the file: the first subscription does.
func NewSubscriber(config Config) (*Subscriber, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	return &Subscriber{
		config:        config,
		file:          open(config),
		subscriptions: delivery.Subscriptions{NackDelay: config.NackDelay, Logger: config.Logger},
	}, nil
}

// SubscribeInitialize makes the queue and binds it to the topic, so that messages wait there.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	return s.subscriptions.Use(func() error {
		ctx := context.Background()
		return s.file.write(ctx, made, durable, func(ctx context.Context, tx transaction) error {
			if s.config.Inbox {
				return bindInbox(ctx, tx, topic)
			}
			return bind(ctx, tx, s.Queue(topic), topic)
		})
	})
}

// Subscribe delivers one message after the other, each after the ack or nack of the one before.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	return s.SubscribeWindow(ctx, topic, 1)
}

// SubscribeWindow binds the queue to the topic and delivers from the queue, whatever its messages'
// topics.
func (s *Subscriber) SubscribeWindow(
	ctx context.Context, topic string, window int,
) (<-chan *message.Message, error) {
	return s.subscribe(ctx, []string{topic}, window)
}

// SubscribeBatch implements transport.BatchSubscriber. The messages' own Ack and Nack do the same
// as Settle.
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
	return s.subscriptions.Start(ctx, window, func(ctx context.Context) (delivery.Queue, error) {
		return newConsumer(ctx, s.file, s.config, s.Queue(topics[0]), topics)
	})
}

// Close ends all subscriptions; what they did not acknowledge returns to the queue. Closing twice
// is fine.
func (s *Subscriber) Close() error {
	if first := s.subscriptions.Close(); !first {
		return nil
	}
	return s.file.release()
}

// Queue implements transport.BatchSubscriber.
func (s *Subscriber) Queue(topic string) string {
	if s.config.Queue == "" {
		return topic
	}
	return s.config.Queue
}

func bind(ctx context.Context, tx transaction, queue, topic string) error {
	_, err := tx.ExecContext(ctx,
		"INSERT INTO bindings (queue, topic) VALUES (?1, ?2), (?1, ?3) ON CONFLICT DO NOTHING",
		queue, topic, transport.DirectTopic(queue, topic))
	return err
}
