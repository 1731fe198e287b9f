package sqlite

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Publisher puts messages into the queues bound to their topic. It is safe for concurrent use: calls that come in while
// a transaction is being written share the next one, and so the wait for the disk.
type Publisher struct {
	config Config
	file   *file

	mu      sync.Mutex
	queued  []*call
	writing sync.WaitGroup // one goroutine at most, as long as something is queued
	busy    bool
	closed  bool

	nextPrune time.Time // the writing goroutine's
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
	f, err := open(config.Path)
	if err != nil {
		return nil, err
	}
	return &Publisher{config: config, file: f}, nil
}

// Publish is PublishBatch to one topic, with the first message's context. It returns the first error.
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

// PublishBatch publishes in one transaction: when it returns, all messages are on the disk, or all have the same error.
// Only transport.ErrUnroutable concerns single messages.
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

// Probe implements transport.Prober: it opens the file and looks whether it is a broker's.
func (p *Publisher) Probe(ctx context.Context) error { return p.file.unavailable(p.file.prepare(ctx)) }

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

// call is a PublishBatch on its way. It shares nothing with the caller's messages: the caller may have gone when it is
// written.
type call struct {
	ctx  context.Context
	rows []row
	errs []error // valid when done is closed
	done chan struct{}
}

type row struct {
	topic, uuid, metadata string
	payload               []byte
}

func newCall(ctx context.Context, batch []transport.Outgoing) (*call, error) {
	c := &call{ctx: ctx, rows: make([]row, len(batch)), errs: make([]error, len(batch)), done: make(chan struct{})}
	for i, out := range batch {
		metadata := out.Message.Metadata
		if metadata == nil {
			metadata = message.Metadata{} // or the receiver could not set any
		}
		text, err := json.Marshal(metadata)
		if err != nil {
			return nil, err
		}
		c.rows[i] = row{
			topic:    out.Topic,
			uuid:     out.Message.UUID,
			metadata: string(text),
			payload:  append([]byte{}, out.Message.Payload...), // nil would be NULL
		}
	}
	return c, nil
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
	var expired int64
	err := p.file.write(ctx, durable, func(ctx context.Context, tx transaction) (err error) {
		if expired, err = p.prune(ctx, tx); err != nil {
			return fmt.Errorf("drop messages older than %s: %w", p.config.Retention, err)
		}
		for _, c := range calls {
			// Asked while the file is locked: whoever publishes the same messages instead has to wait, and comes behind them.
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
	if expired > 0 {
		p.config.Logger.WarnContext(ctx, "dropped messages that nobody consumed in time",
			"count", expired, "retention", p.config.Retention, "file", p.file.path)
	}
	return nil
}

func (p *Publisher) insert(ctx context.Context, tx transaction, c *call) error {
	insert := tx.StmtContext(ctx, tx.insert)
	defer insert.Close()
	now := time.Now().UnixMilli()
	for i, r := range c.rows {
		result, err := insert.ExecContext(ctx, r.topic, r.uuid, r.metadata, r.payload, now)
		if err != nil {
			return err
		}
		queues, err := result.RowsAffected()
		if err != nil {
			return err
		}
		if queues == 0 && p.config.Mandatory {
			c.errs[i] = fmt.Errorf("%w: topic %q in SQLite file %s", transport.ErrUnroutable, r.topic, p.file.path)
		}
	}
	return nil
}

func repeat(err error, n int) []error {
	errs := make([]error, n)
	for i := range errs {
		errs[i] = err
	}
	return errs
}
