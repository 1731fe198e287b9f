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

// TopologyBuilder declares an exchange, a queue bound to its topic and to its direct topic, and the
// queue's dead letter queue. Declaring what exists already with the same arguments changes nothing.
type TopologyBuilder struct{ wamqp.DefaultTopologyBuilder }

// ExchangeDeclare implements watermill-amqp's TopologyBuilder.
func (b TopologyBuilder) ExchangeDeclare(
	channel *amqp091.Channel, name string, config wamqp.Config,
) error {
	if err := b.DefaultTopologyBuilder.ExchangeDeclare(channel, name, config); err != nil {
		return fmt.Errorf("declare exchange %s: %w", name, err)
	}
	return nil
}

// BuildTopology implements watermill-amqp's TopologyBuilder.
func (b TopologyBuilder) BuildTopology(
	channel *amqp091.Channel, params wamqp.BuildTopologyParams, config wamqp.Config,
	_ watermill.LoggerAdapter,
) error {
	if err := b.ExchangeDeclare(channel, params.ExchangeName, config); err != nil {
		return err
	}
	for _, queue := range []string{params.QueueName, DeadLetterQueue(params.QueueName)} {
		if err := declareQueue(channel, queue, config); err != nil {
			return err
		}
	}
	return bind(channel, params, config, config.QueueBind.NoWait)
}

func declareQueue(channel *amqp091.Channel, queue string, config wamqp.Config) error {
	_, err := channel.QueueDeclare(queue, config.Queue.Durable, config.Queue.AutoDelete,
		config.Queue.Exclusive, config.Queue.NoWait, config.Queue.Arguments)
	if err != nil {
		return fmt.Errorf("declare queue %s: %w", queue, err)
	}
	return nil
}

// bind binds the queues of a topic to it.
func bind(
	channel *amqp091.Channel, params wamqp.BuildTopologyParams, config wamqp.Config, noWait bool,
) error {
	dead := DeadLetterQueue(params.QueueName)
	return bindQueues(channel, params.ExchangeName, config, noWait,
		binding{params.QueueName, params.RoutingKey},
		binding{params.QueueName, transport.DirectTopic(params.QueueName, params.RoutingKey)},
		binding{dead, transport.DirectTopic(dead, params.RoutingKey)})
}

type binding struct{ queue, key string }

func bindQueues(
	channel *amqp091.Channel, exchange string, config wamqp.Config, noWait bool, bindings ...binding,
) error {
	for _, b := range bindings {
		err := channel.QueueBind(b.queue, b.key, exchange, noWait, config.QueueBind.Arguments)
		if err != nil {
			return fmt.Errorf("bind queue %s to %s: %w", b.queue, b.key, err)
		}
	}
	return nil
}

// declare builds the topology of topics. Of those that share a queue and an exchange, only the
// first one's declares them, and the broker is not asked after each binding of the others: at
// thousands of topics the answers would be all the time it takes. built remembers what was declared
// on this channel.
//
// Whoever has a TopologyBuilder of their own is asked for each topic.
func (c Config) declare(channel *amqp091.Channel, topics []string, built map[string]bool) error {
	_, own := c.TopologyBuilder.(TopologyBuilder)
	for i, topic := range topics {
		params := wamqp.BuildTopologyParams{
			Topic:        topic,
			QueueName:    c.Queue.GenerateName(topic),
			ExchangeName: c.Exchange.GenerateName(topic),
			RoutingKey:   c.QueueBind.GenerateRoutingKey(topic),
		}
		place := params.ExchangeName + "\x00" + params.QueueName
		var err error
		if own && built[place] {
			// its answer is that to all: a refused one closes the channel
			last := i == len(topics)-1
			err = bind(channel, params, c.Config, !last || c.QueueBind.NoWait)
		} else {
			err = c.TopologyBuilder.BuildTopology(channel, params, c.Config,
				watermill.NewSlogLogger(c.Logger))
			built[place] = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}
