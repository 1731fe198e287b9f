package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// forwarded empties a table of watermill-sql with Watermill's forwarder, tuned: batches
// of 1,000, no waiting between them.
func (r relayBench) forwarded() func(context.Context) (float64, error) {
	rows := r.backlog.rows
	return r.timed(rows, func(ctx context.Context, at publishPlace) (took time.Duration, err error) {
		const topic = "forwarded"
		schema := sql.DefaultPostgreSQLSchema{SubscribeBatchSize: 1000}
		drop := []string{
			"DROP TABLE IF EXISTS watermill_" + topic,
			"DROP TABLE IF EXISTS watermill_offsets_" + topic,
		}
		if err := r.backlog.exec(ctx, drop...); err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, r.backlog.exec(context.WithoutCancel(ctx), drop...)) }()
		db := sql.BeginnerFromStdSQL(r.backlog.DB().DB)
		subscriber, err := sql.NewSubscriber(db, sql.SubscriberConfig{
			SchemaAdapter: schema, OffsetsAdapter: sql.DefaultPostgreSQLOffsetsAdapter{},
			InitializeSchema: true,
			PollInterval:     time.Millisecond,
		}, watermill.NopLogger{})
		if err != nil {
			return 0, err
		}
		if err := subscriber.SubscribeInitialize(topic); err != nil {
			return 0, err
		}
		if err := r.fillForwarder(ctx, topic, at, rows); err != nil {
			return 0, err
		}
		publisher, err := r.stockPublisher(at)
		if err != nil {
			return 0, err
		}
		f, err := forwarder.NewForwarder(subscriber, publisher, watermill.NopLogger{},
			forwarder.Config{ForwarderTopic: topic})
		if err != nil {
			return 0, err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		start := time.Now()
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		if err := r.arrived(ctx, at, rows, ended); err != nil {
			return 0, err
		}
		return time.Since(start), nil
	})
}

// fillForwarder writes what forwarder.Publisher would, in one statement.
func (r relayBench) fillForwarder(
	ctx context.Context, topic string, at publishPlace, rows int,
) error {
	msg := r.message()
	payload, err := json.Marshal(map[string]any{
		"destination_topic": at.topic, "uuid": msg.UUID, "payload": []byte(msg.Payload),
		"metadata": msg.Metadata,
	})
	if err != nil {
		return err
	}
	_, err = r.backlog.DB().ExecContext(ctx, fmt.Sprintf(
		"INSERT INTO watermill_%s (uuid, payload, metadata, transaction_id) "+
			"SELECT ?, ?::json, '{}', pg_current_xact_id() FROM generate_series(1, %d)", topic, rows),
		msg.UUID, string(payload))
	return err
}

// stockPublisher is watermill-amqp's with confirms.
func (r relayBench) stockPublisher(at publishPlace) (message.Publisher, error) {
	config := wamqp.NewDurablePubSubConfig(r.address, nil)
	config.Exchange = wamqp.ExchangeConfig{
		GenerateName: wamqp.GenerateExchangeNameConstant(at.exchange), Type: "topic", Durable: true,
	}
	config.Publish = wamqp.PublishConfig{
		GenerateRoutingKey: func(topic string) string { return topic }, ConfirmDelivery: true,
		ChannelPoolSize: 1,
	}
	return wamqp.NewPublisher(config, watermill.NopLogger{})
}

// arrived waits until the queue holds all messages.
func (r relayBench) arrived(
	ctx context.Context, at publishPlace, messages int, ended <-chan error,
) (err error) {
	conn, err := amqp091.Dial(r.address)
	if err != nil {
		return errors.New("RabbitMQ cannot be reached")
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	for {
		state, err := channel.QueueDeclarePassive(at.exchange, true, false, false, false, nil)
		if err != nil || state.Messages >= messages {
			return err
		}
		select {
		case err := <-ended:
			return fmt.Errorf("the forwarder ended: %w", err)
		case <-time.After(5 * time.Millisecond):
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}
