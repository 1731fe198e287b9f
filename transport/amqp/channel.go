package amqp

import (
	"context"
	"errors"
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// channel opens a channel on the first connection that has room for it.
func (s *Subscriber) channel(ctx context.Context) (*connection, *amqp091.Channel, error) {
	for i := 0; ; i++ {
		conn, err := s.connection(ctx, i)
		if err != nil {
			return nil, nil, err
		}
		var channel *amqp091.Channel
		err = s.limited(conn, func() (err error) {
			channel, err = conn.Channel()
			return err
		})
		switch {
		case errors.Is(err, amqp091.ErrChannelMax):
		case err != nil:
			return nil, nil, fmt.Errorf("open a channel: %w", err)
		default:
			return conn, channel, nil
		}
	}
}

// connection returns one of the shared connections, made again when it is lost.
func (s *Subscriber) connection(ctx context.Context, i int) (*connection, error) {
	select {
	case s.connecting <- struct{}{}:
		defer func() { <-s.connecting }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if i < len(s.conns) && !s.conns[i].IsClosed() {
		return s.conns[i], nil
	}
	conn, err := s.dialer.dial(ctx)
	if err != nil {
		return nil, err
	}
	if i == len(s.conns) {
		s.conns = append(s.conns, nil)
	}
	s.conns[i] = conn
	return conn, nil
}
