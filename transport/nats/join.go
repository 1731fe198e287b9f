package nats

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
)

// checkBindings is how often a subscription looks whether its queue is still bound as it should be.
const checkBindings = 30 * time.Second

// leastPause separates attempts to join a queue.
const leastPause = 200 * time.Millisecond

// join makes the queue, binds it, and begins to listen. It is called again when that broke.
func (c *consumer) join(ctx context.Context) error {
	err := c.subscriber.within(ctx, func(ctx context.Context, q queues) error {
		if err := c.subscriber.bind(ctx, q, c.topics); err != nil {
			return err
		}
		wait, err := c.inspect(ctx, q)
		if err != nil {
			return err
		}
		c.checked = time.Now()
		c.mu.Lock()
		c.every = wait / 3
		c.mu.Unlock()
		if c.answers() {
			return nil
		}
		if c.nc == nil { // it stays the same one, lost or not
			c.nc = q.nc
		}
		return c.listen()
	})
	c.joined = time.Now()
	switch {
	case err != nil:
	case c.alive != nil:
		c.alive.Reset(min(c.every, heartbeat))
	default:
		c.subscriber.mu.Lock()
		c.subscriber.consumers[c] = struct{}{}
		c.subscriber.mu.Unlock()
		c.alive = time.NewTicker(min(c.every, heartbeat))
		c.running.Go(c.keepAlive)
	}
	return err
}

// inspect returns after how long the queue, whoever made it, gives messages to somebody else, and
// refuses one that would lose them.
func (c *consumer) inspect(ctx context.Context, q queues) (wait time.Duration, err error) {
	stream, queue := c.subscriber.config.Stream, c.subscriber.Queue(c.topics[0])
	if c.subscriber.config.Inbox {
		stream = inboxStream(stream)
	}
	info, err := q.lookup(ctx, stream, queue)
	if err != nil {
		return 0, err
	}
	if info.Config.AckPolicy != jetstream.AckExplicitPolicy || info.Config.MaxDeliver > 0 {
		return 0, fmt.Errorf("the consumer %s has the ack policy %s and delivers %d times: want "+
			"explicit acks and no limit (-1); delete it, or change it",
			info.Name, info.Config.AckPolicy, info.Config.MaxDeliver)
	}
	return max(info.Config.AckWait, 3*time.Millisecond), nil
}

// answers says that the server was only late, and forgives that: what it has sent would come to
// nobody at another address. What it said before is heard by now, because it was asked meanwhile.
func (c *consumer) answers() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken != errLate || c.pulls.late(c.heard) { //nolint:errorlint // the value that stands there
		return false
	}
	c.broken = nil
	return true
}

// listen takes messages at an address of its own, so that what was asked for before, and may come
// yet, is nobody's.
func (c *consumer) listen() error {
	address := c.nc.NewInbox()
	sub, err := c.nc.Subscribe(address, c.receive)
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	_ = sub.SetPendingLimits(-1, -1) // what comes was asked for
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inbox != nil {
		_ = c.inbox.Unsubscribe()
	}
	c.inbox, c.broken, c.pulls = sub, nil, nil
	return nil
}

// mend joins the queue anew where that is needed, and looks after its bindings from time to time.
func (c *consumer) mend(ctx context.Context) error {
	c.mu.Lock()
	broken := c.broken
	c.mu.Unlock()
	if broken == nil && time.Since(c.checked) < checkBindings {
		return nil
	}
	if broken == nil {
		return c.subscriber.within(ctx, func(ctx context.Context, q queues) error {
			c.checked = time.Now()
			return c.subscriber.bind(ctx, q, c.topics)
		})
	}
	if time.Since(c.joined) < leastPause {
		return broken // once more at once would not help
	}
	return c.join(ctx)
}

// interrupt has the queue joined anew.
func (c *consumer) interrupt(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = why
	c.wake()
}
