package amqp

import (
	"context"
	"errors"
	"fmt"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.QueueFinder = (*Subscriber)(nil)

// HasQueue implements transport.QueueFinder: it looks whether the queue is there, and makes nothing.
func (s *Subscriber) HasQueue(ctx context.Context) (bool, error) {
	if !s.begin() {
		return false, errSubscriberClosed
	}
	defer s.users.Done()
	queue := s.config.Queue.GenerateName("")
	err := s.withChannel(ctx, func(_ *connection, channel *amqp091.Channel) error {
		if _, err := channel.QueueDeclarePassive(queue, true, false, false, false, nil); err != nil {
			return err
		}
		return channel.Close()
	})
	var reason *amqp091.Error
	switch {
	case err == nil:
		return true, nil
	case errors.As(err, &reason) && reason.Code == amqp091.NotFound:
		return false, nil
	default:
		return false, fmt.Errorf("look for the queue %s: %w", queue, err)
	}
}
