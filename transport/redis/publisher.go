package redis

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

	mu         sync.Mutex
	idle       []*session
	unroutable map[string]int64
	warned     bool
}

var (
	_ transport.BatchPublisher = (*Publisher)(nil)
	_ transport.Prober         = (*Publisher)(nil)
)

var errClosed = errors.New("the publisher is closed")

// NewPublisher checks the configuration. It does not connect.
func NewPublisher(config Config) (*Publisher, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	p := &Publisher{
		config:     config,
		turns:      make(chan struct{}, config.Connections),
		closing:    make(chan struct{}),
		unroutable: map[string]int64{},
	}
	p.ended, p.end = context.WithCancel(context.Background())
	return p, nil
}

// Publish publishes messages in order and returns what went wrong, joined. It ends early with the
// context of any of the messages, and does not stop at one that is refused.
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
	return errors.Join(p.PublishBatch(ctx, batch)...)
}

// PublishBatch implements transport.BatchPublisher.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	parcels := p.pack(batch, errs)
	if len(parcels) == 0 {
		return errs
	}
	err := p.use(ctx, func(ctx context.Context, s *session) error {
		return s.send(ctx, parcels, func(q parcel, taken int64, err error) {
			errs[q.index] = p.verdict(batch[q.index], taken, err)
		})
	})
	for _, q := range parcels {
		if errs[q.index] == errUnsent { //nolint:errorlint // the value that stands there
			errs[q.index] = unavailable(err)
		}
	}
	return errs
}

// errUnsent stands for the fate of a message of which nothing is known.
var errUnsent = errors.New("no answer")

func unavailable(err error) error {
	if err == nil {
		err = errUnsent
	}
	if errors.Is(err, transport.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
}

// pack encodes messages, and notes in errs what is wrong with those that cannot be.
func (p *Publisher) pack(batch []transport.Outgoing, errs []error) []parcel {
	parcels := make([]parcel, 0, len(batch))
	for i, out := range batch {
		arguments, err := p.config.arguments(out.Topic, out.Message)
		if err != nil {
			errs[i] = about(out, err)
			continue
		}
		errs[i] = errUnsent
		parcels = append(parcels, parcel{i, arguments})
	}
	return parcels
}

func about(out transport.Outgoing, err error) error {
	return fmt.Errorf("message %s to %s: %w", out.Message.UUID, out.Topic, err)
}

// verdict is what the caller hears about one message that so many queues took.
func (p *Publisher) verdict(out transport.Outgoing, taken int64, err error) error {
	switch {
	case errors.Is(err, transport.ErrUnavailable):
		return err
	case err != nil:
		return about(out, err)
	case taken > 0:
		return nil
	case !p.config.DropUnroutable:
		return about(out, transport.ErrUnroutable)
	}
	p.mu.Lock()
	p.unroutable[out.Topic]++
	first := p.unroutable[out.Topic] == 1
	p.mu.Unlock()
	if first {
		p.config.Logger.Warn("no queue takes the messages of a topic: they are gone; set "+
			"mandatory=true to keep them back", "topic", out.Topic)
	}
	return nil
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made.
func (p *Publisher) Unroutable() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.unroutable)
}

// Probe implements transport.Prober.
func (p *Publisher) Probe(ctx context.Context) error {
	err := p.use(ctx, func(ctx context.Context, s *session) error {
		return s.client.Ping(ctx).Err()
	})
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// use calls do with a session, which is kept for the next call unless do returns an error.
func (p *Publisher) use(ctx context.Context, do func(context.Context, *session) error) error {
	if err := transport.Ended(ctx); err != nil {
		return unavailable(err)
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ended, func() { cancel(errClosed) })()
	if err := p.enter(inner); err != nil {
		return unavailable(err)
	}
	defer func() { <-p.turns }()
	s, err := p.session(inner)
	if err != nil {
		return unavailable(err)
	}
	stop := context.AfterFunc(inner, s.dialer.Cut)
	err = do(inner, s)
	if !stop() || err != nil {
		s.cut()
		if err == nil {
			err = context.Cause(inner)
		}
		return because(ctx, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
	return nil
}

// because adds why ctx ended to an error that it caused.
func because(ctx context.Context, err error) error {
	if ended := transport.Ended(ctx); ended != nil && !errors.Is(err, ended) {
		return errors.Join(ended, err)
	}
	return err
}

func (p *Publisher) session(ctx context.Context) (*session, error) {
	p.mu.Lock()
	if last := len(p.idle) - 1; last >= 0 {
		s := p.idle[last]
		p.idle = p.idle[:last]
		p.mu.Unlock()
		return s, nil
	}
	p.mu.Unlock()
	s, warning, err := openSession(ctx, p.config)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	first := !p.warned
	p.warned = true
	p.mu.Unlock()
	if warning != "" && first {
		p.config.Logger.WarnContext(ctx, warning)
	}
	return s, nil
}

// enter waits for a turn.
func (p *Publisher) enter(ctx context.Context) error {
	select {
	case <-p.closing:
		return errClosed
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
		for _, s := range p.idle {
			s.cut()
		}
		p.idle = nil
	})
	return nil
}
