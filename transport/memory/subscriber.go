package memory

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

// nackDelay keeps a failing handler from spinning.
const nackDelay = 20 * time.Millisecond

// Subscriber consumes one queue, or one queue per topic. It is safe for concurrent use.
type Subscriber struct {
	broker        *Broker
	queue         string
	inbox         bool // each topic's queue is one
	subscriptions delivery.Subscriptions
}

var (
	_ transport.BatchSubscriber    = (*Subscriber)(nil)
	_ message.SubscribeInitializer = (*Subscriber)(nil)
)

// Subscriber returns a subscriber of the queue. With the name "" each topic has a queue of its own,
// called like it.
func (b *Broker) Subscriber(queue string) *Subscriber {
	return &Subscriber{
		broker:        b,
		queue:         queue,
		subscriptions: delivery.Subscriptions{NackDelay: nackDelay, Logger: slog.Default()},
	}
}

// SubscribeInitialize makes the queue and binds it to the topic, so that messages wait there.
func (s *Subscriber) SubscribeInitialize(topic string) error {
	s.bind(topic)
	return nil
}

// Queue implements transport.BatchSubscriber.
func (s *Subscriber) Queue(topic string) string {
	if s.queue == "" {
		return topic
	}
	return s.queue
}

func (s *Subscriber) bind(topic string) *queue {
	if s.inbox {
		return s.broker.bindInbox(topic)
	}
	return s.broker.bind(s.Queue(topic), topic)
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
	return s.subscriptions.Start(ctx, window, func(context.Context) (delivery.Queue, error) {
		var q *queue
		for _, topic := range topics {
			q = s.bind(topic)
		}
		c := &consumer{
			broker: s.broker,
			queue:  q,
			held:   map[int64]entry{},
			ready:  make(chan struct{}, 1),
		}
		c.broker.mu.Lock()
		defer c.broker.mu.Unlock()
		c.queue.consumers[c] = struct{}{}
		return c, nil
	})
}

// Close ends all subscriptions. Closing twice is fine.
func (s *Subscriber) Close() error {
	s.subscriptions.Close()
	return nil
}

// consumer is a subscription's side of the queue.
type consumer struct {
	broker *Broker
	queue  *queue
	held   map[int64]entry
	ready  chan struct{}
}

func (c *consumer) Ready() <-chan struct{} { return c.ready }

func (c *consumer) Exchange(
	_ context.Context, acked, returned []int64, room int,
) ([]delivery.Taken, error) {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	for _, id := range acked {
		delete(c.held, id)
	}
	c.putBack(returned)
	var taken []delivery.Taken
	for _, e := range c.queue.take(room, time.Now()) {
		c.held[e.id] = e
		taken = append(taken, delivery.Taken{ID: e.id, Message: clone(e.message)})
	}
	return taken, nil
}

func (c *consumer) Leave(_ context.Context, acked []int64) error {
	c.broker.mu.Lock()
	defer c.broker.mu.Unlock()
	for _, id := range acked {
		delete(c.held, id)
	}
	delete(c.queue.consumers, c)
	if c.queue.inbox {
		c.broker.inboxes[c.queue] = time.Now()
	}
	c.putBack(slices.Collect(maps.Keys(c.held)))
	return nil
}

func (c *consumer) putBack(ids []int64) {
	var entries []entry
	for _, id := range ids {
		entries = append(entries, c.held[id])
		delete(c.held, id)
	}
	c.queue.putBack(entries)
}
