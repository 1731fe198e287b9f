package kafka

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/pool"
)

// Publisher publishes with pipelined confirms. It connects when it has something to publish, not
// before, so that a service starts without its brokers.
type Publisher struct {
	config     Config
	sessions   *pool.Pool[*session]
	unroutable pool.Unroutable

	mu    sync.Mutex
	there map[string]bool // topics that were there when somebody looked
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
	p := &Publisher{config: config, there: map[string]bool{}}
	p.sessions = pool.New(config.Connections, func(ctx context.Context) (*session, error) {
		return openSession(ctx, config)
	})
	return p, nil
}

// Publish publishes messages in order and returns what went wrong, joined. It ends early with the
// context of any of the messages, and does not stop at one that is refused.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	return pool.Publish(topic, messages, p.PublishBatch)
}

// PublishBatch implements transport.BatchPublisher. Order is kept among the messages of one topic
// and one key.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	errs := make([]error, len(batch))
	parcels := p.pack(batch, errs)
	if len(parcels) == 0 {
		return errs
	}
	err := p.sessions.Use(ctx, func(ctx context.Context, s *session) error {
		routed, err := p.route(ctx, s, parcels, batch, errs)
		if err != nil {
			return err
		}
		return s.send(ctx, routed, func(q parcel, err error) {
			errs[q.index] = p.verdict(batch[q.index], q.record.Topic, err)
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
		record, err := p.config.encode(out.Topic, out.Message)
		if err != nil {
			errs[i] = pool.About(out, err)
			continue
		}
		errs[i] = pool.ErrUnsent
		parcels = append(parcels, parcel{i, record})
	}
	return parcels
}

// route takes out those whose topic is not there. That one is not there is never believed without
// looking again; that it is, until the brokers say otherwise.
func (p *Publisher) route(
	ctx context.Context, s *session, parcels []parcel, batch []transport.Outgoing, errs []error,
) (routed []parcel, err error) {
	doubtful := map[string]bool{}
	p.mu.Lock()
	for _, q := range parcels {
		if !p.there[q.record.Topic] {
			doubtful[q.record.Topic] = true
		}
	}
	p.mu.Unlock()
	if len(doubtful) == 0 {
		return parcels, nil
	}
	found, err := s.find(ctx, doubtful)
	if err != nil {
		return nil, fmt.Errorf("look which topics are there: %w", err)
	}
	p.mu.Lock()
	for name, err := range found {
		if err == nil {
			p.there[name] = true
		}
	}
	p.mu.Unlock()
	for _, q := range parcels {
		if err := found[q.record.Topic]; err != nil {
			errs[q.index] = p.verdict(batch[q.index], q.record.Topic, err)
			continue
		}
		routed = append(routed, q)
	}
	return routed, nil
}

// verdict is what the caller hears about one message.
func (p *Publisher) verdict(out transport.Outgoing, name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, transport.ErrUnavailable):
		return err
	case !errors.Is(err, transport.ErrUnroutable):
		return pool.About(out, err)
	}
	p.mu.Lock()
	delete(p.there, name)
	p.mu.Unlock()
	if !p.config.DropUnroutable {
		return pool.About(out, err)
	}
	p.unroutable.Count(out.Topic, p.config.Logger)
	return nil
}

// Unroutable counts the messages of each topic that was not there since the publisher was made.
func (p *Publisher) Unroutable() map[string]int64 { return p.unroutable.Counts() }

// Probe implements transport.Prober.
func (p *Publisher) Probe(ctx context.Context) error {
	err := p.sessions.Use(ctx, func(ctx context.Context, s *session) error {
		ctx, cancel := bounded.Timeout(ctx, p.config.ConnectTimeout, nil)
		defer cancel()
		return explain(ctx, s.client.Ping(ctx))
	})
	if err != nil && !errors.Is(err, transport.ErrUnavailable) {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return err
}

// Close refuses new calls, gives those under way ConfirmTimeout to finish, and disconnects.
func (p *Publisher) Close() error {
	p.sessions.Close(p.config.ConfirmTimeout)
	return nil
}
