package main

import (
	"context"
	"errors"
	"strconv"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
)

// raw is what one writes for speed on the client library: a thousand
// confirms in flight, the oldest awaited.
func (p publishBench) raw(ctx context.Context, at publishPlace) error {
	return p.pipelined(ctx, at, false)
}

// rawMandatory also hears of every message that no queue takes, as
// ours does where routes are required.
func (p publishBench) rawMandatory(ctx context.Context, at publishPlace) error {
	return p.pipelined(ctx, at, true)
}

func (p publishBench) pipelined(ctx context.Context, at publishPlace, mandatory bool) (err error) {
	conn, err := amqp091.Dial(p.address)
	if err != nil {
		return errors.New("RabbitMQ cannot be reached")
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.Confirm(false); err != nil {
		return err
	}
	inFlight := make([]*amqp091.DeferredConfirmation, 0, at.messages)
	await := func(c *amqp091.DeferredConfirmation) error {
		acked, err := c.WaitContext(ctx)
		if err == nil && !acked {
			err = errors.New("nacked")
		}
		return err
	}
	for i := range at.messages {
		if i >= publishWindow {
			if err := await(inFlight[i-publishWindow]); err != nil {
				return err
			}
		}
		message := amqp091.Publishing{
			ContentType:  "text/plain",
			DeliveryMode: amqp091.Persistent,
			MessageId:    watermill.NewUUID(),
			Headers:      amqp091.Table{"cqrs_key": "1", "cqrs_revision": "7"},
			Body:         p.payload,
		}
		confirm, err := channel.PublishWithDeferredConfirmWithContext(
			ctx, at.exchange, at.topic, mandatory, false, message)
		if err != nil {
			return err
		}
		inFlight = append(inFlight, confirm)
	}
	for _, confirm := range inFlight[max(0, len(inFlight)-publishWindow):] {
		if err := await(confirm); err != nil {
			return err
		}
	}
	return nil
}

// ours publishes size messages a call, with that many calls at once.
func (p publishBench) ours(
	ctx context.Context, at publishPlace, mandatory bool, calls, size int,
) (err error) {
	address, err := withParameters(p.address, map[string]string{
		"exchange": at.exchange, "mandatory": strconv.FormatBool(mandatory),
	})
	if err != nil {
		return err
	}
	config, err := amqp.NewConfig(address, "")
	if err != nil {
		return err
	}
	publisher, err := amqp.NewPublisher(config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	return p.inCalls(ctx, publisher, at, calls, size)
}

// inCalls publishes size messages a call, with that many calls at once.
func (p publishBench) inCalls(
	ctx context.Context, publisher transport.BatchPublisher, at publishPlace, calls, size int,
) error {
	work, ctx := errgroup.WithContext(ctx)
	for range calls {
		work.Go(func() error {
			for range at.messages / calls / min(size, at.messages/calls) {
				batch := make([]transport.Outgoing, min(size, at.messages/calls))
				for i := range batch {
					batch[i] = transport.Outgoing{Topic: at.topic, Message: p.message()}
				}
				if err := errors.Join(publisher.PublishBatch(ctx, batch)...); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return work.Wait()
}

// watermill is the stock publisher with confirms, one channel kept open.
func (p publishBench) watermill(_ context.Context, at publishPlace) (err error) {
	config := wamqp.NewDurablePubSubConfig(p.address, nil)
	config.Exchange = wamqp.ExchangeConfig{
		GenerateName: wamqp.GenerateExchangeNameConstant(at.exchange), Type: "topic", Durable: true,
	}
	config.Publish = wamqp.PublishConfig{
		GenerateRoutingKey: func(topic string) string { return topic },
		ConfirmDelivery:    true,
		ChannelPoolSize:    1,
	}
	publisher, err := wamqp.NewPublisher(config, watermill.NopLogger{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, publisher.Close()) }()
	messages := make([]*message.Message, at.messages)
	for i := range messages {
		messages[i] = p.message()
	}
	return publisher.Publish(at.topic, messages...)
}
