package nats

import (
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
	routes routes
	turns  chan struct{} // a token per call that is publishing

	closeOnce sync.Once
	closing   chan struct{}   // closed first: no new calls
	ended     context.Context // ends when the calls under way had their time
	end       context.CancelFunc

	mu         sync.Mutex
	idle       []*session
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
	if err := config.validate(); err != nil {
		return nil, err
	}
	p := &Publisher{
		config:     config,
		routes:     routes{streams: map[string]*route{}},
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
	// Without an id: whoever sends a message again means it, as a dead letter that is dead anew.
	return errors.Join(p.publish(ctx, batch, false)...)
}

// PublishBatch implements transport.BatchPublisher. The server drops a message whose UUID and topic
// it got within two minutes, and reports it as published.
func (p *Publisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	return p.publish(ctx, batch, true)
}

// Probe implements transport.Prober.
func (p *Publisher) Probe(ctx context.Context) error {
	err := p.use(ctx, func(ctx context.Context, s *session) error {
		ctx, cancel := context.WithTimeout(ctx, p.config.ConnectTimeout)
		defer cancel()
		return s.nc.FlushWithContext(ctx)
	})
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	return nil
}

// Unroutable counts the messages of each topic that no queue took since the publisher was made.
func (p *Publisher) Unroutable() map[string]int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.unroutable)
}

func (p *Publisher) countUnroutable(topic string) {
	p.mu.Lock()
	p.unroutable[topic]++
	first := p.unroutable[topic] == 1
	p.mu.Unlock()
	if first {
		p.config.Logger.Warn("no queue takes the messages of a topic: they are gone; set "+
			"mandatory=true to keep them back", "topic", topic)
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
		for _, s := range slices.Backward(p.idle) {
			s.close()
		}
		p.idle = nil
	})
	return nil
}
