package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/pool"
)

// Publisher publishes with pipelined confirms. It connects when it has something to publish, not
// before, so that a service starts without its broker.
type Publisher struct {
	config     Config
	sessions   *pool.Pool[*session]
	unroutable pool.Unroutable
	warn       sync.Once
}

var (
	_ transport.BatchPublisher = (*Publisher)(nil)
	_ transport.Prober         = (*Publisher)(nil)
)

// NewPublisher checks the configuration. It does not connect.
func NewPublisher(config Config) (*Publisher, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, err
	}
	p := &Publisher{config: config}
	p.sessions = pool.New(config.Connections, p.open)
	return p, nil
}

// Publish publishes messages in order and returns what went wrong, joined. It ends early with the
// context of any of the messages, and does not stop at one that is refused.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	return pool.Publish(topic, messages, p.PublishBatch)
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
		if errs[q.index] == pool.ErrUnsent { //nolint:errorlint // the value that stands there
			errs[q.index] = pool.Unavailable(err)
		}
	}
	return errs
}

// pack encodes messages, and notes in errs what is wrong with those that cannot be.
func (p *Publisher) pack(batch []transport.Outgoing, errs []error) []parcel {
	parcels := make([]parcel, 0, len(batch))
	for i, out := range batch {
		arguments, err := p.config.arguments(out.Topic, out.Message)
		if err != nil {
			errs[i] = pool.About(out, err)
			continue
		}
		errs[i] = pool.ErrUnsent
		parcels = append(parcels, parcel{i, arguments, len(out.Message.Payload)})
	}
	return parcels
}

// verdict is what the caller hears about one message that so many queues took.
func (p *Publisher) verdict(out transport.Outgoing, taken int64, err error) error {
	switch {
	case errors.Is(err, transport.ErrUnavailable):
		return err
	case err != nil:
		return pool.About(out, err)
	case taken > 0:
		return nil
	case !p.config.DropUnroutable:
		return pool.About(out, transport.ErrUnroutable)
	}
	p.unroutable.Count(out.Topic, p.config.Logger)
	return nil
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made.
func (p *Publisher) Unroutable() map[string]int64 { return p.unroutable.Counts() }

// Probe implements transport.Prober.
func (p *Publisher) Probe(ctx context.Context) error {
	err := p.use(ctx, func(ctx context.Context, s *session) error {
		return s.client.Ping(ctx).Err()
	})
	if err != nil {
		return pool.Unavailable(err)
	}
	return nil
}

// use calls do with a session, which is cut when ctx ends: the client's calls may last longer.
func (p *Publisher) use(ctx context.Context, do func(context.Context, *session) error) error {
	err := p.sessions.Use(ctx, func(ctx context.Context, s *session) error {
		stop := context.AfterFunc(ctx, s.dialer.Cut)
		err := do(ctx, s)
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return because(ctx, err)
		}
		return nil
	})
	if err != nil && !errors.Is(err, transport.ErrUnavailable) { // of no message in particular
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return err
}

// because adds why ctx ended to an error that it caused.
func because(ctx context.Context, err error) error {
	if ended := transport.Ended(ctx); ended != nil && !errors.Is(err, ended) {
		return errors.Join(ended, err)
	}
	return err
}

// open returns a new session, and logs once what there is to warn of.
func (p *Publisher) open(ctx context.Context) (*session, error) {
	s, warning, err := openSession(ctx, p.config)
	if err == nil && warning != "" {
		p.warn.Do(func() { p.config.Logger.WarnContext(ctx, warning) })
	}
	return s, err
}

// Close refuses new calls, gives those under way ConfirmTimeout to finish, and disconnects.
func (p *Publisher) Close() error {
	p.sessions.Close(p.config.ConfirmTimeout)
	return nil
}
