package amqp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Publisher publishes with pipelined confirms. It connects when it has something to publish, not
// before, so that a service starts without its broker.
type Publisher struct {
	config Config
	turns  chan struct{} // a token per call that is publishing

	closeOnce sync.Once
	closing   chan struct{}   // closed first: no new calls
	ended     context.Context // ends when the calls under way had their time
	end       context.CancelFunc

	pool    *pool
	refused *refusals

	mu         sync.Mutex
	unroutable map[string]int64
}

var (
	_ transport.BatchPublisher = (*Publisher)(nil)
	_ transport.Prober         = (*Publisher)(nil)
)

var errClosed = errors.New("the publisher is closed")

// NewPublisher checks the configuration. It does not connect.
func NewPublisher(config Config) (*Publisher, error) {
	config = config.withDefaults()
	if err := config.validatePublisher(); err != nil {
		return nil, err
	}
	p := &Publisher{
		config:     config,
		refused:    newRefusals(config),
		turns:      make(chan struct{}, config.Publish.ChannelPoolSize),
		closing:    make(chan struct{}),
		unroutable: map[string]int64{},
	}
	p.ended, p.end = context.WithCancel(context.Background())
	dialer := newDialer(config, "cqrsync publisher")
	p.pool = newPool(p.ended, config.Publish.ChannelPoolSize, config.Logger,
		func(ctx context.Context) (*session, error) {
			return openSession(ctx, dialer, config)
		})
	return p, nil
}

// Publish publishes messages in order and returns what went wrong, joined. It ends early with the
// context of any of the messages. Unlike stock publishers it does not stop at a message that is
// refused: the next ones are on their way by then.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	batch := make([]transport.Outgoing, len(messages))
	for i, msg := range messages {
		batch[i] = transport.Outgoing{Topic: topic, Message: msg}
		if msg.Context().Err() != nil {
			cancel(context.Cause(msg.Context()))
		}
		defer context.AfterFunc(msg.Context(), func() { cancel(context.Cause(msg.Context())) })()
	}
	return errors.Join(slices.Compact(p.PublishBatch(ctx, batch))...)
}

// PublishBatch implements transport.BatchPublisher. Errors that concern one message are ErrNacked,
// ErrRefused, transport.ErrUnroutable and the marshaler's; transport.ErrDestination concerns all to
// its exchange or routing key.
//
// Messages to a destination that the broker refused the last time are published after the others of
// the batch.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	settle := func(q *parcel, fate error) { errs[q.index] = p.verdict(batch[q.index], fate) }
	delivery{p, settle}.all(ctx, p.address(batch, settle))
	return errs
}

// Probe implements transport.Prober: it connects, opens a channel, and keeps both for what is
// published next.
func (p *Publisher) Probe(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ended, func() { cancel(errClosed) })()
	if err := p.enter(ctx); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	defer func() { <-p.turns }()
	s, err := p.pool.get(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	p.pool.put(s)
	return nil
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made. A
// topic whose last queue goes away is noticed by the first message of a call; those of that call
// which are already on their way are not counted.
func (p *Publisher) Unroutable() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.unroutable)
}

// Close refuses new calls, gives those under way ConfirmTimeout to finish, and disconnects.
func (p *Publisher) Close() error {
	p.closeOnce.Do(func() {
		close(p.closing)
		timer := time.AfterFunc(p.config.ConfirmTimeout, p.end)
		defer timer.Stop()
		for range cap(p.turns) {
			p.turns <- struct{}{}
		}
		p.end()
		p.pool.close()
	})
	return nil
}

// address makes the parcels of a batch, and settles those whose destination cannot be. What is in
// the others is marshalled when they are sent, so that the first one is with the broker while the
// last one is not there yet.
func (p *Publisher) address(batch []transport.Outgoing, settle func(*parcel, error)) []parcel {
	parcels := make([]parcel, 0, len(batch))
	for i, out := range batch {
		q := parcel{
			index:    i,
			message:  out.Message,
			exchange: p.config.Exchange.GenerateName(out.Topic),
			key:      p.config.Publish.GenerateRoutingKey(out.Topic),
		}
		if err := cmp.Or(checkShort(q.exchange), checkShort(q.key)); err != nil {
			settle(&q, err)
			continue
		}
		parcels = append(parcels, q)
	}
	return parcels
}

// verdict is what the caller hears about one message.
func (p *Publisher) verdict(out transport.Outgoing, fate error) error {
	if errors.Is(fate, errReturned) {
		if !p.config.Publish.Mandatory {
			p.countUnroutable(out.Topic)
			return nil
		}
		fate = transport.ErrUnroutable
	}
	if fate == nil || errors.Is(fate, transport.ErrUnavailable) {
		return fate
	}
	return fmt.Errorf("message %s to %s: %w", out.Message.UUID, out.Topic, fate)
}

func (p *Publisher) countUnroutable(topic string) {
	p.mu.Lock()
	p.unroutable[topic]++
	first := p.unroutable[topic] == 1
	p.mu.Unlock()
	if first {
		p.config.Logger.Warn("no queue takes the messages of a topic: they are gone; set "+
			"mandatory=true to keep them back",
			"topic", topic)
	}
}

// attempt publishes on one session and returns the parcels whose fate is unknown, and why.
func (p *Publisher) attempt(
	ctx context.Context, parcels []parcel, window int, settle func(*parcel, error),
) (unknown []parcel, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ended, func() { cancel(errClosed) })()
	if err := p.enter(ctx); err != nil {
		return parcels, err
	}
	defer func() { <-p.turns }()

	s, err := p.pool.get(ctx)
	if err != nil {
		return parcels, err
	}
	stop := context.AfterFunc(ctx, s.conn.cut)
	if err = s.declare(ctx, parcels); err == nil {
		err = s.publish(ctx, parcels, window, func(q *parcel, fate error) {
			settle(q, fate)
			parcels = parcels[1:]
		})
	}
	for _, q := range parcels { // confirms come out of order
		if q.unfit != nil || q.confirm != nil && q.confirm.Acked() {
			settle(&q, s.fate(&q))
			continue
		}
		q.confirm = nil
		unknown = append(unknown, q)
	}
	reusable := err == nil || channelOnly(err) && s.reopen(ctx) == nil
	if stop() && reusable {
		p.pool.put(s)
	} else {
		s.conn.cut()
		p.pool.lose()
	}
	if len(unknown) == 0 {
		return nil, nil
	}
	return unknown, because(ctx, err)
}

// enter waits for a turn.
func (p *Publisher) enter(ctx context.Context) error {
	select {
	case <-p.closing:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	default:
	}
	select {
	case <-p.closing:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	case p.turns <- struct{}{}:
		return nil
	}
}
