package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

// write publishes one message, and returns when a queue has it.
func (r *deadLetterReader) write(
	ctx context.Context, exchange, key string, publishing amqp091.Publishing,
) error {
	if err := errors.Join(checkLimits(publishing), checkShort(key)); err != nil {
		return err
	}
	if err := r.openWriter(); err != nil {
		r.closeWriter() // it may be half open
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
	}
	var confirm *amqp091.DeferredConfirmation
	err := r.limited(r.conn, func() (err error) {
		confirm, err = r.writer.PublishWithDeferredConfirm(exchange, key, true, false, publishing)
		return err
	})
	if err == nil {
		err = r.await(ctx, confirm)
	}
	if err != nil {
		r.closeWriter()
	}
	return err
}

func (r *deadLetterReader) openWriter() error {
	if r.writer != nil {
		return nil
	}
	return r.limited(r.conn, func() error {
		channel, err := r.conn.Channel()
		if err != nil {
			return err
		}
		r.writer = channel
		r.returns = channel.NotifyReturn(make(chan amqp091.Return, 1))
		r.closed = channel.NotifyClose(make(chan *amqp091.Error, 1))
		return channel.Confirm(false)
	})
}

func (r *deadLetterReader) closeWriter() {
	if r.writer != nil {
		_ = r.limited(r.conn, r.writer.Close) // what was not confirmed is not counted on
		r.writer = nil
	}
}

// await returns nil when the broker has confirmed a message that a queue took.
func (r *deadLetterReader) await(ctx context.Context, confirm *amqp091.DeferredConfirmation) error {
	timer := time.NewTimer(r.config.ConfirmTimeout)
	defer timer.Stop()
	select {
	case <-confirm.Done():
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", transport.ErrUnavailable, context.Cause(ctx))
	case <-timer.C:
		reason := ""
		if b := r.conn.blockade.Load(); b != nil {
			reason = ": it has blocked publishers: " + b.reason
		}
		return fmt.Errorf("%w: no confirm within %s%s",
			transport.ErrUnavailable, r.config.ConfirmTimeout, reason)
	}
	switch {
	case confirm.Acked() && len(r.returns) == 0: // a return comes before its confirm
		return nil
	case confirm.Acked():
		<-r.returns
		return transport.ErrUnroutable
	case !r.writer.IsClosed():
		return ErrNacked
	}
	var reason *amqp091.Error
	if errors.As(closedBecause(r.closed, amqp091.ErrClosed), &reason) && reason.Server {
		return explained(reason)
	}
	return fmt.Errorf("%w: the connection was lost", transport.ErrUnavailable)
}
