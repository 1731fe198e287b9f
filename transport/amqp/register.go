package amqp

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.Registrar = (*Subscriber)(nil)

// RegistryQueue is the queue beside a replica's own that holds one message: the id of the database
// behind it. Nothing is bound to it and nobody consumes it.
func RegistryQueue(queue string) string { return queue + ".database" }

// registryExpires is after how long without a replica the note is forgotten.
const registryExpires = 7 * 24 * time.Hour

// Register implements transport.Registrar. Subscribers without a queue of their own keep no note.
// The user needs the permissions to configure, write and read RegistryQueue, and to write to the
// default exchange (amq.default); where Config.NoDeclare is set, somebody else makes the queue,
// with x-max-length 1.
//
// RabbitMQ has no place for a word about a queue that clients could read. Between taking the note
// and writing the next one, somebody else may find none; the next call finds what that one wrote.
func (s *Subscriber) Register(ctx context.Context, database string) (before string, err error) {
	queue := s.config.Queue.GenerateName("")
	if queue == "" {
		return "", nil
	}
	if !s.begin() {
		return "", errSubscriberClosed
	}
	defer s.users.Done()
	note := RegistryQueue(queue)
	err = s.withChannel(ctx, func(_ *connection, channel *amqp091.Channel) error {
		if !s.config.NoDeclare {
			only := amqp091.Table{"x-max-length": int64(1),
				"x-expires": registryExpires.Milliseconds()}
			if _, err := channel.QueueDeclare(note, true, false, false, false, only); err != nil {
				return err
			}
		}
		if err := channel.Confirm(false); err != nil {
			return err
		}
		delivery, found, err := channel.Get(note, true)
		if err != nil {
			return err
		}
		if found {
			before = string(delivery.Body)
		}
		confirm, err := channel.PublishWithDeferredConfirmWithContext(ctx, "", note, false, false,
			amqp091.Publishing{
				ContentType: "text/plain", DeliveryMode: amqp091.Persistent, Body: []byte(database),
			})
		if err != nil {
			return err
		}
		switch acked, err := confirm.WaitContext(ctx); {
		case err != nil:
			return err
		case !acked:
			return errors.New("the broker did not keep the note")
		}
		return channel.Close()
	})
	if err != nil {
		return "", fmt.Errorf("note the database in queue %s: %w", note, err)
	}
	return before, nil
}
