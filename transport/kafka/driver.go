package kafka

import (
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/driver"
)

func init() {
	driver.Register("kafka", driver.Driver{Form: "kafka://…", Parse: parse})
	driver.Register("kafkas", driver.Driver{Form: "kafkas://…", Parse: parse})
}

func parse(rawURL, queue string, o driver.Options) (driver.Broker, error) {
	config, err := NewConfig(rawURL, queue)
	config.Logger = o.Logger
	config.DropUnroutable = config.DropUnroutable && !o.RequireQueue
	return driver.Broker{
		Publisher:  func() (transport.BatchPublisher, error) { return NewPublisher(config) },
		Subscriber: func() (transport.WindowSubscriber, error) { return NewSubscriber(config) },
		Inbox: func() (transport.WindowSubscriber, error) {
			config := config
			config.Queue, config.Inbox = "", true
			return NewSubscriber(config)
		},
	}, err
}
