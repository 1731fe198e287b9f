package amqp

import (
	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// NewInboxConfig is NewConfig for a subscriber whose topics have an inbox each: a queue called like
// the topic and bound to nothing else, without a dead letter queue. The broker keeps it small: a
// message waits there for 10 minutes at most, and at most 10,000 do, of which the oldest make room
// for further ones; a queue that has had no consumer for a day is deleted.
//
// Where the exchange is not called cqrs, the exchange's name and a dot stand before the queue's.
//
// It is a classic queue whatever queue_type says, because all that read it have to declare the
// same.
func NewInboxConfig(rawURL string) (Config, error) {
	config, err := NewConfig(rawURL, "")
	if err != nil {
		return Config{}, err
	}
	config.TopologyBuilder = inboxTopology{}
	if exchange := config.Exchange.GenerateName(""); exchange != defaultExchange {
		// Two masters on one virtual host, each with an exchange of its own, share no inbox.
		config.Queue.GenerateName = func(topic string) string { return exchange + "." + topic }
	}
	config.Queue.Arguments = amqp091.Table{
		"x-message-ttl": inbox.TTL.Milliseconds(),
		"x-max-length":  int64(inbox.Most),
		"x-expires":     inbox.Expires.Milliseconds(),
	}
	return config, nil
}

// inboxTopology declares an exchange and a queue bound to its topic alone.
type inboxTopology struct{ TopologyBuilder }

// BuildTopology implements watermill-amqp's TopologyBuilder.
func (b inboxTopology) BuildTopology(
	channel *amqp091.Channel, params wamqp.BuildTopologyParams, config wamqp.Config,
	_ watermill.LoggerAdapter,
) error {
	if err := b.ExchangeDeclare(channel, params.ExchangeName, config); err != nil {
		return err
	}
	if err := declareQueue(channel, params.QueueName, config); err != nil {
		return err
	}
	return bindQueues(channel, params.ExchangeName, config, config.QueueBind.NoWait,
		binding{params.QueueName, params.RoutingKey})
}
