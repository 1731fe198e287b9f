package nats

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/transport"
)

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
	if err := do(deadlined{inner, ctx}, s); err != nil {
		s.cut()
		return err
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

func (p *Publisher) session(ctx context.Context) (*session, error) {
	p.mu.Lock()
	for len(p.idle) > 0 {
		last := len(p.idle) - 1
		s := p.idle[last]
		p.idle = p.idle[:last]
		if !s.closed() {
			p.mu.Unlock()
			return s, nil
		}
	}
	p.mu.Unlock()
	return openSession(ctx, p.config)
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
