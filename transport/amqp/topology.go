package amqp

import (
	"fmt"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
)

// DeadLetterQueue is the queue beside a replica's own where django-cqrs puts what it gave up.
func DeadLetterQueue(queue string) string { return "dead_letter_" + queue }

// TopologyBuilder declares an exchange, a queue bound to its topic and to its direct topic, and the queue's dead letter
// queue. Declaring what exists already with the same arguments changes nothing.
type TopologyBuilder struct{ wamqp.DefaultTopologyBuilder }

// ExchangeDeclare implements watermill-amqp's TopologyBuilder.
func (b TopologyBuilder) ExchangeDeclare(channel *amqp091.Channel, name string, config wamqp.Config) error {
	if err := b.DefaultTopologyBuilder.ExchangeDeclare(channel, name, config); err != nil {
		return fmt.Errorf("declare exchange %s: %w", name, err)
	}
	return nil
}

// BuildTopology implements watermill-amqp's TopologyBuilder.
func (b TopologyBuilder) BuildTopology(
	channel *amqp091.Channel, params wamqp.BuildTopologyParams, config wamqp.Config, _ watermill.LoggerAdapter,
) error {
	if err := b.ExchangeDeclare(channel, params.ExchangeName, config); err != nil {
		return err
	}
	dead := DeadLetterQueue(params.QueueName)
	for _, queue := range []struct {
		name string
		keys []string
	}{
		{params.QueueName, []string{params.RoutingKey, transport.DirectTopic(params.QueueName, params.RoutingKey)}},
		{dead, []string{transport.DirectTopic(dead, params.RoutingKey)}},
	} {
		_, err := channel.QueueDeclare(queue.name, config.Queue.Durable, config.Queue.AutoDelete,
			config.Queue.Exclusive, config.Queue.NoWait, config.Queue.Arguments)
		if err != nil {
			return fmt.Errorf("declare queue %s: %w", queue.name, err)
		}
		for _, key := range queue.keys {
			err := channel.QueueBind(queue.name, key, params.ExchangeName, config.QueueBind.NoWait, config.QueueBind.Arguments)
			if err != nil {
				return fmt.Errorf("bind queue %s to %s: %w", queue.name, key, err)
			}
		}
	}
	return nil
}

// declare builds the topology of one topic, unless somebody else does, and says which queue it has.
func (c Config) declare(channel *amqp091.Channel, topic string) (queue string, err error) {
	queue = c.Queue.GenerateName(topic)
	if c.NoDeclare {
		return queue, nil
	}
	return queue, c.TopologyBuilder.BuildTopology(channel, wamqp.BuildTopologyParams{
		Topic:        topic,
		QueueName:    queue,
		ExchangeName: c.Exchange.GenerateName(topic),
		RoutingKey:   c.QueueBind.GenerateRoutingKey(topic),
	}, c.Config, watermill.NewSlogLogger(c.Logger))
}
