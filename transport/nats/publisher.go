package nats

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/pool"
)

// Publisher publishes with pipelined confirms. It connects when it has something to publish, not
// before, so that a service starts without its broker.
type Publisher struct {
	config     Config
	routes     routes
	sessions   *pool.Pool[*session]
	unroutable pool.Unroutable
	declared   atomic.Bool // the streams are there, or were
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
	p := &Publisher{config: config, routes: routes{streams: map[string]*route{}}}
	p.sessions = pool.New(config.Connections, func(ctx context.Context) (*session, error) {
		s, err := openSession(ctx, config, !p.declared.Load())
		if err == nil {
			p.declared.Store(true)
		}
		return s, err
	})
	return p, nil
}

// Publish publishes messages in order and returns what went wrong, joined. It ends early with the
// context of any of the messages, and does not stop at one that is refused.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	// Without an id: whoever sends a message again means it, as a dead letter that is dead anew.
	return pool.Publish(topic, messages, func(
		ctx context.Context, batch []transport.Outgoing,
	) []error {
		return p.publish(ctx, batch, false)
	})
}

// PublishBatch implements transport.BatchPublisher. The server drops a message whose UUID and topic
// it got within two minutes, and reports it as published.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	return p.publish(ctx, batch, true)
}

// Probe implements transport.Prober.
func (p *Publisher) Probe(ctx context.Context) error {
	err := p.sessions.Use(ctx, func(ctx context.Context, s *session) error {
		ctx, cancel := bounded.Timeout(ctx, p.config.ConnectTimeout, nil)
		defer cancel()
		return s.nc.FlushWithContext(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return nil
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made.
func (p *Publisher) Unroutable() map[string]int64 { return p.unroutable.Counts() }

// Close refuses new calls, gives those under way ConfirmTimeout to finish, and disconnects.
func (p *Publisher) Close() error {
	p.sessions.Close(p.config.ConfirmTimeout)
	return nil
}
