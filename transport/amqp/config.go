package amqp

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/internal/address"
)

const (
	defaultExchange       = "cqrs"
	defaultConfirmTimeout = 30 * time.Second
	defaultConnectTimeout = 10 * time.Second
	defaultWindow         = 1000
	defaultPoolSize       = 16
)

// Config is watermill-amqp's configuration and some settings it has no field for. NewConfig fills
// it; change what must differ. What it means here:
//
//   - Publish.Mandatory: a message that no queue takes is transport.ErrUnroutable; false: it counts
//     as published.
//   - Publish.ChannelPoolSize: how many calls publish at once, each on a connection of its own;
//     others wait. Zero: 16. Where the broker allows fewer connections, it is as many as that.
//   - Publish.ConfirmDelivery has no effect: every message is confirmed.
//   - Publish.Transactional, Publish.Immediate and Connection.AmqpConfig.Recovery are refused.
//   - Consume.Qos has no effect: the window is the prefetch count.
type Config struct {
	wamqp.Config

	// Hosts are further nodes of a cluster, as in host:5672. One that Connection.AmqpURI or Hosts
	// names is chosen at random, and another one when it does not answer. Default: none.
	Hosts []string
	// ConfirmTimeout is how long the broker may take to confirm the oldest unconfirmed message, to
	// read what is written to it, or to let publishers go on after it blocked them. After it the
	// connection is given up and the fate of its messages is unknown. Default: 30 s.
	ConfirmTimeout time.Duration
	// Window is how many messages of a batch may be unconfirmed at once. Default: 1000; 1 waits for
	// each, which is some twelve times slower.
	Window int
	// NoDeclare leaves exchanges, queues and bindings to somebody else, so that the user needs no
	// permission to configure any. Without it a publisher declares its exchange if it may, and does
	// with the one that is there if it may not. Default: everybody declares what he needs.
	NoDeclare bool
	// Logger receives lost connections and unroutable messages. Default: slog.Default().
	Logger *slog.Logger
}

// NewConfig reads a URL (see the package documentation) and sets up the topology of the replica
// service queue. An empty queue means one queue per topic, called like the topic; a publisher needs
// none.
//
// It reports every mistake at once, and never the password.
func NewConfig(rawURL, queue string) (Config, error) {
	if err := address.RequireEscaped(rawURL); err != nil {
		return Config{}, fmt.Errorf("the broker URL: %w", err)
	}
	rawURL, hosts := splitHosts(rawURL)
	u, err := url.Parse(rawURL)
	if err != nil {
		return Config{}, errURL // the parser's own message quotes the URL, and with it the password
	}
	given, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return Config{}, errors.New("RabbitMQ configuration: the URL parameters cannot be read: " +
			"want name=value, joined by &, with % written as %25")
	}
	o := options{given: given}
	config := topology(o.text("exchange", defaultExchange), queue, o.queueType())
	config.Publish.Mandatory = o.boolean("mandatory", false)
	config.ConfirmTimeout = o.duration("confirm_timeout", defaultConfirmTimeout)
	config.Window = o.positive("window", defaultWindow)
	config.NoDeclare = !o.boolean("declare", true)
	config.Publish.ChannelPoolSize = o.positive("connections", defaultPoolSize)
	u.RawQuery = o.passOn().Encode()
	config.Connection.AmqpURI, config.Hosts = u.String(), hosts
	if err := errors.Join(append(o.errs, checkQueue(queue), config.validateURIs())...); err != nil {
		return Config{}, fmt.Errorf("RabbitMQ configuration: %w", err)
	}
	return config, nil
}

var errURL = errors.New("the broker URL cannot be read: want " +
	"amqp://user:password@host:5672/vhost, or several of host:5672 joined by commas, with " +
	"reserved characters (: / ? # @ %) in user, password and vhost percent-encoded")

// checkQueue refuses wildcards: the queue's direct topics would also catch other queues' messages.
func checkQueue(name string) error {
	if strings.ContainsAny(name, "*#") || len(name) > 200 {
		return fmt.Errorf("queue %.40q: want at most 200 bytes without * and #", name)
	}
	return nil
}

// topology is django-cqrs's: change an argument, and one kind of service can no longer declare what
// the other declared.
func topology(exchange, queue string, arguments amqp091.Table) Config {
	same := func(topic string) string { return topic }
	config := Config{Config: wamqp.Config{
		Marshaler: Marshaler{},
		Exchange: wamqp.ExchangeConfig{
			GenerateName: wamqp.GenerateExchangeNameConstant(exchange),
			Type:         amqp091.ExchangeTopic, Durable: true,
		},
		Queue: wamqp.QueueConfig{
			GenerateName: wamqp.GenerateQueueNameTopicName, Durable: true, Arguments: arguments,
		},
		QueueBind:       wamqp.QueueBindConfig{GenerateRoutingKey: same},
		Publish:         wamqp.PublishConfig{GenerateRoutingKey: same, ConfirmDelivery: true},
		TopologyBuilder: TopologyBuilder{},
	}}
	if queue != "" {
		config.Queue.GenerateName = wamqp.GenerateQueueNameConstant(queue)
	}
	return config
}

// withDefaults fills the zero values.
func (c Config) withDefaults() Config {
	if c.ConfirmTimeout == 0 {
		c.ConfirmTimeout = defaultConfirmTimeout
	}
	if c.Window == 0 {
		c.Window = defaultWindow
	}
	if c.Publish.ChannelPoolSize == 0 {
		c.Publish.ChannelPoolSize = defaultPoolSize
	}
	if c.Connection.Reconnect == nil {
		c.Connection.Reconnect = &wamqp.ReconnectConfig{
			BackoffInitialInterval:     100 * time.Millisecond,
			BackoffRandomizationFactor: 0.5,
			BackoffMultiplier:          2,
			BackoffMaxInterval:         5 * time.Second,
		}
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validatePublisher() error { return c.validate(c.ValidatePublisher()) }

func (c Config) validateSubscriber() error {
	var err error
	if c.QueueBind.GenerateRoutingKey == nil {
		err = errors.New("missing Config.QueueBind.GenerateRoutingKey")
	}
	return c.validate(c.ValidateSubscriber(), err)
}

func (c Config) validate(errs ...error) error {
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.TopologyBuilder == nil, "missing Config.TopologyBuilder: set amqp.TopologyBuilder{}")
	refuse(c.ConfirmTimeout < 0,
		"Config.ConfirmTimeout is %s: want a positive duration, or 0 for 30s", c.ConfirmTimeout)
	refuse(c.Window < 0, "Config.Window is %d: want a positive number, or 0 for 1000", c.Window)
	refuse(c.Publish.ChannelPoolSize < 0,
		"Config.Publish.ChannelPoolSize is %d: want a positive number, or 0 for 16",
		c.Publish.ChannelPoolSize)
	refuse(c.Publish.Transactional,
		"Config.Publish.Transactional is set: leave it, every message is confirmed")
	refuse(c.Publish.Immediate,
		"Config.Publish.Immediate is set: leave it, RabbitMQ does not know it")
	if own := c.Connection.AmqpConfig; own != nil {
		refuse(own.Recovery != nil,
			"Config.Connection.AmqpConfig.Recovery is set: leave it, this package reconnects")
		refuse(own.TLSClientConfig != nil && c.Connection.TLSConfig != nil,
			"Config.Connection has both TLSConfig and AmqpConfig.TLSClientConfig: set one")
	}
	if c.Connection.AmqpURI != "" { // watermill-amqp says so when it is empty
		errs = append(errs, c.validateURIs())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("RabbitMQ configuration: %w", err)
	}
	return nil
}

func validateURI(uri string) error {
	if err := address.RequireEscaped(uri); err != nil {
		return fmt.Errorf("the broker URL: %w", err)
	}
	u, err := url.Parse(uri)
	if err != nil || strings.Contains(uri, " ") {
		return errURL
	}
	if u.Scheme != "amqp" && u.Scheme != "amqps" {
		return errors.New("the broker URL has another scheme: want amqp:// or amqps://")
	}
	// which quotes what it does not understand
	if _, err := amqp091.ParseURI(uri); err != nil {
		return errors.New("the broker URL has a port, heartbeat, connection_timeout or " +
			"channel_max that is no number in its range")
	}
	return nil
}

// connectTimeout bounds making a connection and declaring the topology on it.
func (c Config) connectTimeout() time.Duration {
	if uri, err := amqp091.ParseURI(c.Connection.AmqpURI); err == nil && uri.ConnectionTimeout > 0 {
		return time.Duration(uri.ConnectionTimeout) * time.Millisecond
	}
	return defaultConnectTimeout
}
