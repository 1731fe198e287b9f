package sqlite

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Publisher puts messages into the queues bound to their topic. It is safe for concurrent use:
// calls that come in while a transaction is being written share the next one, and so the wait for
// the disk.
type Publisher struct {
	config Config
	file   *file

	mu      sync.Mutex
	queued  []*call
	writing sync.WaitGroup // one goroutine at most, as long as something is queued
	busy    bool
	closed  bool

	unroutable map[string]int64 // messages that were dropped, by topic; guarded by mu

	// refused is the size of the last publication, in bytes, if the disk had no room for it, and
	// else zero. Probe asks for that much: for less, a relay would come back only to be refused
	// again, and for more, it might stay away for ever.
	refused atomic.Uint64

	// The writing goroutine's:
	nextPrune time.Time
	nextCheck time.Time
	neglected map[string]time.Time // queues, and when the log named them last
}

var (
	_ transport.BatchPublisher = (*Publisher)(nil)
	_ transport.Prober         = (*Publisher)(nil)
)

var errPublisherClosed = fmt.Errorf("%w: the publisher is closed", transport.ErrUnavailable)

// NewPublisher does not touch the file: the first message does.
func NewPublisher(config Config) (*Publisher, error) {
	config, err := config.complete()
	if err != nil {
		return nil, err
	}
	return &Publisher{
		config: config, file: open(config),
		unroutable: map[string]int64{}, neglected: map[string]time.Time{},
	}, nil
}

// Publish is PublishBatch to one topic, with the first message's context. It returns the first
// error.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	ctx := context.Background()
	batch := make([]transport.Outgoing, len(messages))
	for i, msg := range messages {
		batch[i] = transport.Outgoing{Topic: topic, Message: msg}
		if i == 0 {
			ctx = msg.Context()
		}
	}
	for _, err := range p.PublishBatch(ctx, batch) {
		if err != nil {
			return err
		}
	}
	return nil
}

// PublishBatch publishes in one transaction: when it returns, all messages are on the disk, or all
// have the same error. Only transport.ErrUnroutable and an expiration that is no number concern
// single messages.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	if err := transport.Ended(ctx); err != nil {
		return repeat(p.file.unavailable(err), len(batch))
	}
	c, err := newCall(ctx, batch)
	if err != nil {
		return repeat(err, len(batch))
	}
	if !p.enqueue(c) {
		return repeat(errPublisherClosed, len(batch))
	}
	select {
	case <-c.done:
		return c.errs
	case <-ctx.Done():
		return repeat(p.file.unavailable(ctx.Err()), len(batch))
	}
}

// probed is the size of a publication, in bytes, for which a disk has to have room that refused
// none.
const probed = 16 << 10

// Probe implements transport.Prober: it opens the file, and looks whether it is a broker's and has
// room.
func (p *Publisher) Probe(ctx context.Context) error {
	h, err := p.file.open(ctx, existing)
	if err == nil {
		err = errors.Join(p.file.check(ctx, h), h.room(ctx, max(probed, p.refused.Load())))
	}
	return p.file.unavailable(err)
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made,
// where they are dropped.
func (p *Publisher) Unroutable() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.unroutable)
}

// Close waits for batches on their way. Closing twice is fine.
func (p *Publisher) Close() error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.mu.Unlock()
	p.writing.Wait()
	if !first {
		return nil
	}
	return p.file.release()
}

func (p *Publisher) enqueue(c *call) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.queued = append(p.queued, c)
	if !p.busy {
		p.busy = true
		p.writing.Go(p.writeQueued)
	}
	return true
}

func (p *Publisher) writeQueued() {
	for calls := p.dequeue(); len(calls) > 0; calls = p.dequeue() {
		err := p.write(calls)
		for _, c := range calls {
			if err != nil {
				c.errs = repeat(err, len(c.rows))
			}
			close(c.done)
		}
	}
}

func (p *Publisher) dequeue() []*call {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.queued
	p.queued = nil
	p.busy = len(calls) > 0
	return calls
}

func (p *Publisher) write(calls []*call) error {
	ctx := context.Background() // no single caller's: they share the transaction
	h, err := p.file.open(ctx, existing)
	if err != nil {
		return p.file.unavailable(err)
	}
	var size uint64
	for _, c := range calls {
		size += c.size
	}
	if err := h.room(ctx, size); err != nil {
		p.refused.Store(size)
		return p.file.unavailable(err)
	}
	p.refused.Store(0)
	var dropped map[string]int64
	var unread []neglect
	err = p.file.write(ctx, existing, durable,
		func(ctx context.Context, tx transaction) (err error) {
			if dropped, err = p.prune(ctx, tx); err != nil {
				return fmt.Errorf("drop old messages: %w", err)
			}
			if unread, err = p.neglectedQueues(ctx, tx); err != nil {
				return fmt.Errorf("look for queues that nobody reads: %w", err)
			}
			for _, c := range calls {
				// Asked while the file is locked: whoever publishes the same messages instead has to
				// wait, and comes behind them.
				if err := transport.Ended(c.ctx); err != nil {
					c.errs = repeat(p.file.unavailable(err), len(c.rows))
					continue
				}
				if err := p.insert(ctx, tx, c); err != nil {
					return err
				}
			}
			return nil
		})
	if err != nil {
		return err
	}
	p.file.wake()
	for queue, n := range dropped {
		p.config.Logger.WarnContext(ctx,
			"dropped messages that nobody consumed in time: find what the replica misses with "+
				"relay diff", "queue", queue, "count", n, "retention", p.config.Retention, "file", p.file.path)
	}
	p.complain(ctx, unread)
	p.countUnroutable(ctx, calls)
	return nil
}

// countUnroutable counts what was dropped, once that is certain.
func (p *Publisher) countUnroutable(ctx context.Context, calls []*call) {
	for _, c := range calls {
		for _, topic := range c.dropped {
			p.mu.Lock()
			p.unroutable[topic]++
			first := p.unroutable[topic] == 1
			p.mu.Unlock()
			if first {
				p.config.Logger.WarnContext(ctx,
					"no queue takes the messages of a topic: they are gone; without "+
						"mandatory=false they would be kept back", "topic", topic, "file", p.file.path)
			}
		}
	}
}

func repeat(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
