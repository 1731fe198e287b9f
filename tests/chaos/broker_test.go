//go:build unix

package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/transport/amqp"
	"github.com/cqrsync/cqrsync/transport/open"
)

// exchange is what a round has at the broker: an exchange, the queues of the replicas, and two
// queues of the test's own that get every message. The tap keeps them, in the order in which the
// broker took them, until the end of the round. The echo is read at once: some of it comes to the
// replicas' queues again, and late.
type exchange struct {
	url, name string // url leads there directly
}

func (e exchange) queue(role string) string { return e.name + "_" + role }
func (e exchange) tap() string              { return e.name + "_tap" }
func (e exchange) echo() string             { return e.name + "_echo" }

// at is the URL of the exchange by way of an address.
func (e exchange) at(address string) string {
	return "amqp://guest:guest@" + address + "/?exchange=" + e.name
}

// onChannel does something on a connection of its own.
func (e exchange) onChannel(do func(*amqp091.Channel) error) (err error) {
	conn, err := amqp091.Dial(e.url)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	return do(channel)
}

// declare makes all of it, before anything is published.
func (e exchange) declare(address string) error {
	for _, role := range replicaRoles {
		subscriber, err := open.Subscriber(e.at(address), e.queue(role), open.Options{})
		if err != nil {
			return err
		}
		for _, model := range []string{itemModel, entryModel} {
			err = errors.Join(err, subscriber.(message.SubscribeInitializer).SubscribeInitialize(model))
		}
		if err := errors.Join(err, subscriber.Close()); err != nil {
			return err
		}
	}
	return e.onChannel(func(channel *amqp091.Channel) error {
		for _, queue := range []string{e.tap(), e.echo()} {
			if _, err := channel.QueueDeclare(queue, true, false, false, false, nil); err != nil {
				return err
			}
			if err := channel.QueueBind(queue, "#", e.name, false, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// remove removes all of it.
func (e exchange) remove() error {
	queues := []string{e.tap(), e.echo()}
	for _, role := range replicaRoles {
		queues = append(queues, e.queue(role), amqp.DeadLetterQueue(e.queue(role)), amqp.RegistryQueue(e.queue(role)))
	}
	return e.onChannel(func(channel *amqp091.Channel) error {
		for _, queue := range queues {
			if _, err := channel.QueueDelete(queue, false, false, false); err != nil {
				return err
			}
		}
		return channel.ExchangeDelete(e.name, false, false)
	})
}

// idle says that nothing waits for the replicas.
func (e exchange) idle() (idle bool, err error) {
	idle = true
	err = e.onChannel(func(channel *amqp091.Channel) error {
		for _, role := range replicaRoles {
			state, err := channel.QueueDeclarePassive(e.queue(role), true, false, false, false, nil)
			if err != nil {
				return err
			}
			idle = idle && state.Messages == 0
		}
		return nil
	})
	return idle, err
}

// tapped reads the tap from its beginning to its end.
func (e exchange) tapped() (all []tapped, err error) {
	err = e.onChannel(func(channel *amqp091.Channel) error {
		state, err := channel.QueueDeclarePassive(e.tap(), true, false, false, false, nil)
		if err != nil {
			return err
		}
		deliveries, err := channel.Consume(e.tap(), "", true, false, false, false, nil)
		if err != nil {
			return err
		}
		for range state.Messages {
			select {
			case d, open := <-deliveries:
				if !open {
					return errors.New("the broker ended the tap")
				}
				m, err := readTapped(d)
				if err != nil {
					return err
				}
				all = append(all, m)
			case <-time.After(time.Minute):
				return fmt.Errorf("the tap gave %d of %d messages", len(all), state.Messages)
			}
		}
		return nil
	})
	return all, err
}

// readTapped takes the body as any consumer would, and the key from it, not from the headers.
func readTapped(d amqp091.Delivery) (tapped, error) {
	var body struct {
		Signal        envelope.Signal `json:"signal_type"`
		Model         string          `json:"cqrs_id"`
		PK            json.Number     `json:"instance_pk"`
		CorrelationID string          `json:"correlation_id"`
		Data          struct {
			ID       int64  `json:"id"`
			Seq      int64  `json:"seq"`
			Txn      string `json:"txn"`
			Note     string `json:"note"`
			Revision int64  `json:"cqrs_revision"`
		} `json:"instance_data"`
	}
	if err := json.Unmarshal(d.Body, &body); err != nil {
		return tapped{}, fmt.Errorf("message %q: %w", d.Body, err)
	}
	return tapped{
		key: key{body.Model, body.PK.String()}, revision: body.Data.Revision,
		signal: body.Signal, txn: body.CorrelationID,
		content: Content{ID: body.Data.ID, Seq: body.Data.Seq, Txn: body.Data.Txn, Note: body.Data.Note},
	}, nil
}

// Of what is published, this much comes again, up to so much later.
const (
	echoed     = 0.15
	echoedLate = 3 * time.Second
)

// echoes repeats messages to the replicas until ctx ends, also when the broker is away for a while.
func (e exchange) echoes(ctx context.Context, random *rand.Rand) (repeated int) {
	for ctx.Err() == nil {
		_ = e.onChannel(func(channel *amqp091.Channel) error { // it ends when the broker does
			deliveries, err := channel.ConsumeWithContext(ctx, e.echo(), "", true, false, false, false, nil)
			if err != nil {
				return err
			}
			var late sync.WaitGroup
			defer late.Wait()
			for d := range deliveries {
				if random.Float64() >= echoed {
					continue
				}
				wait := time.Duration(random.Int64N(int64(echoedLate)))
				repeated++
				late.Go(func() {
					select {
					case <-time.After(wait):
					case <-ctx.Done():
					}
					for _, role := range replicaRoles {
						_ = channel.Publish("", e.queue(role), false, false, amqp091.Publishing{
							Headers: d.Headers, ContentType: d.ContentType, DeliveryMode: d.DeliveryMode,
							MessageId: d.MessageId, Body: d.Body,
						})
					}
				})
			}
			return nil
		})
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return repeated
}
