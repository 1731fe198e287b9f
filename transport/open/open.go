// Package open makes publishers and subscribers by URL:
//
//	amqp://user:password@host:5672/vhost   RabbitMQ; amqps:// with TLS. Options: see transport/amqp.
//	sqlite://broker.db                     a file, relative to the working directory;
//	                                       sqlite:///var/lib/x.db: absolute
//	memory: or memory:NAME                 a broker inside the process, one for each name
//
// Further brokers are modules of their own. A program that imports the package of one, for nothing
// else, opens its URLs here too:
//
//	kafka://user:password@host:9092        Apache Kafka: see package transport/kafka
//	nats://user:password@host:4222         NATS JetStream: see package transport/nats
//	redis://user:password@host:6379/0      Redis Streams: see package transport/redis
//
// Options of sqlite, after a question mark:
//
//	retention   how long a message may wait in a queue, as in 36h; default 0: until it is consumed
//	mandatory   true (default): a message for a topic without a queue is an error; false: it is
//	            dropped, and counted. Options.RequireQueue overrules it, as it does
//	            RabbitMQ's
//
// Nothing connects here: errors are about the URL, all at once, and never contain a password.
//
// Neighbours: cmd and the examples choose their broker through it; one package per scheme stands
// beside it.
package open

import (
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/address"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/amqp"
	"github.com/cqrsync/cqrsync/transport/driver"
)

// Options are what a URL cannot say. The zero value is ready.
type Options = driver.Options

// Publisher returns a publisher for the broker that rawURL names.
func Publisher(rawURL string, o Options) (transport.BatchPublisher, error) {
	b, err := parse(rawURL, "", o)
	if err != nil {
		return nil, explain(rawURL, err)
	}
	pub, err := b.Publisher()
	if err != nil {
		return nil, explain(rawURL, err)
	}
	return pub, nil
}

// Subscriber returns a subscriber of a queue, which is the name of the replica service. The workers
// of one service, in any number of processes, share its queue.
func Subscriber(rawURL, queue string, o Options) (transport.WindowSubscriber, error) {
	b, err := parse(rawURL, queue, o)
	if queue == "" {
		err = errors.Join(err,
			errors.New("the queue has no name: give it that of the replica service"))
	}
	if err != nil {
		return nil, explain(rawURL, err)
	}
	sub, err := b.Subscriber()
	if err != nil {
		return nil, explain(rawURL, err)
	}
	return sub, nil
}

// Inbox returns a subscriber whose topics have an inbox each: a queue called like the topic, for
// what replicas send to their master. It is bound to that topic alone and has no dead letters, a
// message waits there for 10 minutes at most, and at most 10,000 do, of which the oldest make room
// for further ones. An inbox that has had no consumer for a day is removed.
func Inbox(rawURL string, o Options) (transport.WindowSubscriber, error) {
	b, err := parse(rawURL, "", o)
	if err != nil {
		return nil, explain(rawURL, err)
	}
	sub, err := b.Inbox()
	if err != nil {
		return nil, explain(rawURL, err)
	}
	return sub, nil
}

func explain(rawURL string, err error) error {
	return fmt.Errorf("broker URL %q: %w", database.Redact(rawURL), err)
}

func init() {
	for scheme, d := range map[string]driver.Driver{
		"amqp":   {Form: "amqp://…", Parse: parseAMQP},
		"amqps":  {Form: "amqps://…", Parse: parseAMQP},
		"sqlite": {Form: "sqlite://FILE", Parse: parseSQLite},
		"memory": {Form: "memory: or memory:NAME", Parse: parseMemory},
	} {
		driver.Register(scheme, d)
	}
}

func parse(rawURL, queue string, o Options) (driver.Broker, error) {
	if err := address.RequireEscaped(rawURL); err != nil {
		return driver.Broker{}, err
	}
	d, err := driver.Find(rawURL)
	if err != nil {
		return driver.Broker{}, err
	}
	return d.Parse(rawURL, queue, o)
}

func parseAMQP(rawURL, queue string, o Options) (driver.Broker, error) {
	config, err := amqp.NewConfig(rawURL, queue)
	config.Logger = o.Logger
	config.Publish.Mandatory = config.Publish.Mandatory || o.RequireQueue
	return driver.Broker{
		Publisher: func() (transport.BatchPublisher, error) { return amqp.NewPublisher(config) },
		Subscriber: func() (transport.WindowSubscriber, error) {
			return amqp.NewSubscriber(config)
		},
		Inbox: func() (transport.WindowSubscriber, error) {
			config, err := amqp.NewInboxConfig(rawURL)
			if err != nil {
				return nil, err
			}
			config.Logger = o.Logger
			return amqp.NewSubscriber(config)
		},
	}, err
}
