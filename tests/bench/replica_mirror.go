package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/open"
)

// cqrsync is a mirror of the model, as a user has it.
func (b *replicaBench) cqrsync(ctx context.Context, c consumption) error {
	return b.mirror(ctx, c, nil)
}

// traced is the same with its messages looked at for a trace that is recorded; none is.
func (b *replicaBench) traced(ctx context.Context, c consumption) error {
	return b.mirror(ctx, c, notSampling())
}

func (b *replicaBench) mirror(
	ctx context.Context, c consumption, tracer replica.Tracer,
) error {
	address, err := withParameters(b.address, map[string]string{"exchange": c.exchange})
	if err != nil {
		return err
	}
	return b.mirrorAt(ctx, address, c, tracer)
}

// mirrorAt takes what is in the queue at a broker's URL.
func (b *replicaBench) mirrorAt(
	ctx context.Context, address string, c consumption, tracer replica.Tracer,
) (err error) {
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	opened, err := open.Subscriber(address, c.queue, open.Options{Logger: logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	subscriber, ok := opened.(transport.BatchSubscriber)
	if !ok {
		return fmt.Errorf("%T takes single acks only", opened)
	}
	rep, err := replica.New(b.db, replica.Config{
		Queue: c.queue, Workers: c.workers, Logger: logger, Tracer: tracer,
	})
	if err != nil {
		return err
	}
	if err := replica.Register[orderCopy](rep, "order"); err != nil {
		return err
	}
	return rep.Run(ctx, &watched{BatchSubscriber: subscriber, acked: c.acked})
}
