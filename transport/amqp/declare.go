package amqp

import (
	"context"
	"errors"
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

// exchangeError is why nothing can be published to an exchange.
type exchangeError struct {
	name   string
	reason error
}

func (e *exchangeError) Error() string {
	return fmt.Sprintf("%s: %s", transport.ErrDestination, e.reason)
}

func (e *exchangeError) Unwrap() []error { return []error{transport.ErrDestination, e.reason} }

// errNoExchange says that a message was published to an exchange that does not exist.
var errNoExchange = fmt.Errorf("%w: declare the exchange, or let the user do it",
	transport.ErrDestination)

// declare makes sure that the exchanges exist. Publishing to one that does not would close the
// channel.
func (s *session) declare(ctx context.Context, parcels []parcel) error {
	for _, p := range parcels {
		// the default exchange always exists
		if s.declared[p.exchange] || p.exchange == "" || s.config.NoDeclare {
			continue
		}
		if err := s.declareOne(ctx, p.exchange); err != nil {
			return err
		}
		s.declared[p.exchange] = true
	}
	return nil
}

func (s *session) declareOne(ctx context.Context, exchange string) error {
	limited, release := s.conn.limit(ctx, s.config.connectTimeout())
	defer release()
	err := s.config.TopologyBuilder.ExchangeDeclare(s.channel, exchange, s.config.Config)
	if serverCode(err) == amqp091.AccessRefused {
		err = s.findExchange(limited, exchange, err)
	}
	switch serverCode(err) {
	case amqp091.AccessRefused, amqp091.NotFound, amqp091.PreconditionFailed, amqp091.CommandInvalid:
		return &exchangeError{exchange, err}
	}
	if err != nil {
		return because(limited, err)
	}
	return nil
}

// findExchange asks whether an exchange exists that the user may not declare, which needs no
// permission. Whether it is of the right type is then its owner's affair.
func (s *session) findExchange(ctx context.Context, exchange string, refused error) error {
	declared := s.declared
	if err := s.reopen(ctx); err != nil {
		return err
	}
	s.declared = declared
	c := s.config.Exchange
	err := s.channel.ExchangeDeclarePassive(exchange, c.Type, c.Durable, c.AutoDeleted, c.Internal,
		c.NoWait, c.Arguments)
	if err != nil {
		return errors.Join(err, refused)
	}
	return nil
}

// serverCode is the reply code of an error that came from the broker, 0 for any other. amqp091 uses
// the same codes for trouble of its own, such as a lost connection.
func serverCode(err error) int {
	var reason *amqp091.Error
	if errors.As(err, &reason) && reason.Server {
		return reason.Code
	}
	return 0
}

// explained says what it means that the broker closed the channel for a reason.
func explained(reason *amqp091.Error) error {
	switch serverCode(reason) {
	case amqp091.PreconditionFailed, amqp091.ContentTooLarge, amqp091.FrameError:
		return fmt.Errorf("%w: %w", ErrRefused, reason)
	case amqp091.AccessRefused:
		return fmt.Errorf("%w: %w (the user needs the permission to write there)",
			transport.ErrDestination, reason)
	case amqp091.NotFound:
		return fmt.Errorf("%w: %w", errNoExchange, reason)
	}
	return reason
}
