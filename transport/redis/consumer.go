package redis

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	goredis "github.com/redis/go-redis/v9"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/delivery"
)

const (
	// mostTaken bounds what one call brings.
	mostTaken = 1000
	// lookAgain is how often a consumer looks for what no word came of: messages of one that died.
	lookAgain = time.Second
)

// consumer is a subscription's side of a queue.
type consumer struct {
	subscriber *Subscriber
	topics     []string
	queue      string
	name       string // of the consumer in the group
	ready      chan struct{}
	stop       context.CancelFunc
	running    sync.WaitGroup

	// What follows belongs to the subscription's loop.
	held   map[int64]string // ids in the stream of what is in its hands
	last   int64
	unsure bool // the last call failed: the server may have given more than is known of
}

func newConsumer(s *Subscriber, topics []string) *consumer {
	return &consumer{
		subscriber: s, topics: topics, queue: s.Queue(topics[0]), name: watermill.NewUUID(),
		ready: make(chan struct{}, 1), held: map[int64]string{},
	}
}

// join makes the queue, and binds it.
func (c *consumer) join(ctx context.Context) error {
	s := c.subscriber
	if err := transport.Ended(ctx); err != nil {
		return errors.Join(transport.ErrUnavailable, err)
	}
	ctx, cancel := bounded.Timeout(ctx, s.config.ConnectTimeout, nil)
	defer cancel()
	return s.promptly(ctx, func() error {
		if err := s.check(ctx); err != nil {
			return err
		}
		return s.bind(ctx, c.topics)
	})
}

// begin listens for new messages, and says from time to time that the consumer lives.
func (c *consumer) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	c.stop = cancel
	words := c.subscriber.client.Subscribe(ctx, c.subscriber.config.Prefix+"wake:"+c.queue)
	c.running.Go(func() {
		defer func() { _ = words.Close() }() // nothing is sent on it
		c.listen(ctx, words.Channel())
	})
	c.wake()
}

func (c *consumer) listen(ctx context.Context, words <-chan *goredis.Message) {
	look, alive := time.NewTicker(lookAgain), time.NewTicker(c.subscriber.config.Lease/3)
	defer look.Stop()
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-words:
			if !open {
				words = nil
				continue
			}
			c.wake()
		case <-look.C:
			c.wake()
		case <-alive.C: // also while there is room for nothing
			s := c.subscriber
			ctx, cancel := bounded.Timeout(ctx, s.config.Lease/3, nil)
			_ = aliveScript.Run(ctx, s.client, nil, s.config.Prefix, c.queue, c.name).Err()
			cancel() // what failed is tried again
		}
	}
}

func (c *consumer) wake() {
	select {
	case c.ready <- struct{}{}:
	default: // it has not looked since the last time
	}
}

// Ready implements delivery.Queue.
func (c *consumer) Ready() <-chan struct{} { return c.ready }

// Exchange implements delivery.Queue.
func (c *consumer) Exchange(
	ctx context.Context, acked, returned []int64, room int,
) (taken []delivery.Taken, err error) {
	limited, cancel := bounded.Timeout(ctx, c.subscriber.config.ConfirmTimeout, nil)
	defer cancel()
	got, err := c.exchange(limited, acked, returned, min(room, mostTaken))
	if errors.Is(err, transport.ErrNoQueue) { // somebody deleted it, and what was in it
		err = errors.Join(transport.ErrUnavailable, c.join(ctx), err)
	}
	if err != nil {
		c.unsure = true
		return nil, err
	}
	for _, numbers := range [][]int64{acked, returned} {
		for _, number := range numbers {
			delete(c.held, number)
		}
	}
	for _, e := range got {
		c.last++
		c.held[c.last] = e.id
		taken = append(taken, delivery.Taken{ID: c.last, Message: e.message(c.queue)})
	}
	if len(got) > 0 && len(got) < room { // there may be more
		c.wake()
	}
	return taken, nil
}

func (c *consumer) exchange(
	ctx context.Context, acked, returned []int64, room int,
) ([]entry, error) {
	s := c.subscriber
	back := c.ids(returned)
	if c.unsure {
		strange, err := c.strange(ctx)
		if err != nil {
			return nil, err
		}
		back = append(back, strange...)
	}
	arguments := []any{
		s.config.Prefix, c.queue, c.name, s.config.Lease.Milliseconds(), room, len(acked),
	}
	arguments = append(append(arguments, c.ids(acked)...), back...)
	answer, err := exchangeScript.Run(ctx, s.client, nil, arguments...).Result()
	if err != nil {
		return nil, explain(ctx, err)
	}
	c.unsure = false
	return entries(answer), nil
}

func (c *consumer) ids(numbers []int64) []any {
	var ids []any
	for _, number := range numbers {
		if id, held := c.held[number]; held {
			ids = append(ids, id)
		}
	}
	return ids
}

// strange are messages that the server gave in an answer that was lost.
func (c *consumer) strange(ctx context.Context) (ids []any, err error) {
	s := c.subscriber
	mine, err := mineScript.Run(ctx, s.client, nil, s.config.Prefix, c.queue, c.name).StringSlice()
	if err != nil {
		return nil, explain(ctx, err)
	}
	known := map[string]bool{}
	for _, id := range c.held {
		known[id] = true
	}
	for _, id := range mine {
		if !known[id] {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Leave implements delivery.Queue.
func (c *consumer) Leave(ctx context.Context, acked []int64) error {
	c.stop()
	c.running.Wait()
	s := c.subscriber
	arguments := append([]any{s.config.Prefix, c.queue, c.name}, c.ids(acked)...)
	return explain(ctx, leaveScript.Run(ctx, s.client, nil, arguments...).Err())
}
