// Package pool is what the publishers of brokers with a client of their own have in common: a
// session per call, of which a few are kept for further calls, and how they end.
//
// Neighbours: transport/kafka, transport/nats and transport/redis publish through it.
package pool

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// Session is a connection, or some that belong together, on which one call publishes at a time.
type Session interface {
	// Cut ends the session without sending anything more.
	Cut()
	// Close ends one that has nothing under way.
	Close()
	// Closed says that it cannot be used again.
	Closed() bool
}

// Pool has the sessions of a publisher.
type Pool[S Session] struct {
	open  func(context.Context) (S, error)
	turns chan struct{} // a token per call that is publishing

	closeOnce sync.Once
	closing   chan struct{}   // closed first: no new calls
	ended     context.Context // ends when the calls under way had their time
	end       context.CancelFunc

	mu   sync.Mutex
	idle []S
}

// ErrClosed is returned for what is asked of a publisher that has been closed.
var ErrClosed = errors.New("the publisher is closed")

// New returns a pool of at most so many sessions.
func New[S Session](most int, open func(context.Context) (S, error)) *Pool[S] {
	p := &Pool[S]{open: open, turns: make(chan struct{}, most), closing: make(chan struct{})}
	p.ended, p.end = context.WithCancel(context.Background())
	return p
}

// Use calls do with a session, which is kept for the next call unless do returns an error. An error
// is as Unavailable makes it. do is told of the deadline of ctx, which may move.
func (p *Pool[S]) Use(ctx context.Context, do func(context.Context, S) error) error {
	if err := transport.Ended(ctx); err != nil {
		return Unavailable(err)
	}
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.ended, func() { cancel(ErrClosed) })()
	if err := p.enter(inner); err != nil {
		return Unavailable(err)
	}
	defer func() { <-p.turns }()
	s, err := p.session(inner)
	if err != nil {
		return Unavailable(err)
	}
	if err := do(deadlined{inner, ctx}, s); err != nil {
		s.Cut()
		return Unavailable(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
	return nil
}

// deadlined is a context with the deadline of another one, which may move.
type deadlined struct {
	context.Context
	of context.Context
}

func (d deadlined) Deadline() (time.Time, bool) { return d.of.Deadline() }

// ErrUnsent stands for the fate of a message of which nothing is known.
var ErrUnsent = errors.New("no answer")

// Unavailable says of an error, nil where there was no answer, that trying again may help, unless
// it is the destination's.
func Unavailable(err error) error {
	switch {
	case err == nil:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, ErrUnsent)
	case errors.Is(err, transport.ErrUnavailable), errors.Is(err, transport.ErrDestination):
		return err
	default:
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
}

// About says which message an error is of.
func About(out transport.Outgoing, err error) error {
	return fmt.Errorf("message %s to %s: %w", out.Message.UUID, out.Topic, err)
}

func (p *Pool[S]) session(ctx context.Context) (S, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		last := len(p.idle) - 1
		s := p.idle[last]
		p.idle = p.idle[:last]
		if !s.Closed() {
			p.mu.Unlock()
			return s, nil
		}
	}
	p.mu.Unlock()
	return p.open(ctx)
}

// enter waits for a turn.
func (p *Pool[S]) enter(ctx context.Context) error {
	select {
	case <-p.closing:
		return ErrClosed
	default:
	}
	select {
	case <-p.closing:
		return ErrClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	case p.turns <- struct{}{}:
		return nil
	}
}

// Close refuses new calls, gives those under way some time to finish, and ends all sessions.
func (p *Pool[S]) Close(grace time.Duration) {
	p.closeOnce.Do(func() {
		close(p.closing)
		timer := time.AfterFunc(grace, p.end)
		defer timer.Stop()
		for range cap(p.turns) {
			p.turns <- struct{}{}
		}
		p.end()
		for _, s := range p.idle {
			s.Close()
		}
		p.idle = nil
	})
}

// Publish publishes messages to one topic, and returns what went wrong, joined. It ends early with
// the context of any of the messages, and does not stop at one that is refused.
func Publish(
	topic string, messages []*message.Message,
	publish func(context.Context, []transport.Outgoing) []error,
) error {
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
	return errors.Join(publish(ctx, batch)...)
}

// Unroutable counts messages that no queue took. The zero value is ready.
type Unroutable struct {
	mu sync.Mutex
	of map[string]int64
}

// Count counts one, and logs the first one of each topic.
func (u *Unroutable) Count(topic string, logger *slog.Logger) {
	u.mu.Lock()
	if u.of == nil {
		u.of = map[string]int64{}
	}
	u.of[topic]++
	first := u.of[topic] == 1
	u.mu.Unlock()
	if first {
		logger.Warn("no queue takes the messages of a topic: they are gone; set "+
			"mandatory=true to keep them back", "topic", topic)
	}
}

// Counts returns how many each topic had.
func (u *Unroutable) Counts() map[string]int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.of)
}
