package amqp

import (
	"context"
	"fmt"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.Prober = (*Publisher)(nil)

// Probe implements transport.Prober: it logs in, unless a connection is open, and keeps that for
// what is published next.
func (p *Publisher) Probe(ctx context.Context) error {
	if err := p.enter(ctx); err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	defer func() { <-p.turns }()
	s, err := p.session(ctx, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	p.keep(s)
	return nil
}
