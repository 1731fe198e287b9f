package redis

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	defaultPrefix         = "{cqrs}:"
	defaultConnections    = 16
	defaultWindow         = 1000
	defaultConfirmTimeout = 30 * time.Second
	defaultConnectTimeout = 10 * time.Second
	defaultLease          = 30 * time.Second
	longestName           = 200 // of a queue, in bytes; as RabbitMQ's
	longestTopic          = 255 // the same
)

// Config says which server and queue. NewConfig fills it from a URL; change what must differ. Zero
// values are the defaults that the package documentation names.
type Config struct {
	// Address is the server's, as host:port. Required.
	Address string
	// Username and Password log in, if the password is not empty.
	Username, Password string
	// Database is the number of the server's database.
	Database int
	// TLS is the configuration of TLS; nil: without.
	TLS *tls.Config
	// Name is that of the connections.
	Name string
	// Prefix is what keys begin with. On a cluster it has to have a {…}.
	Prefix string

	// Queue is the name of the replica service. Empty: one queue per topic, called like the topic.
	// A publisher needs none.
	Queue string
	// Inbox makes each topic's queue an inbox, see transport/open. It has no queue name.
	Inbox bool
	// Lease is after how long without a sign of life of its consumer a message goes to another one.
	Lease time.Duration

	// DropUnroutable drops a message for a topic that no queue is bound to, where it is refused
	// otherwise: transport.ErrUnroutable.
	DropUnroutable bool
	// Connections is how many calls of PublishBatch are served at once; others wait.
	Connections int
	// Window is how many messages are sent before their answers are read.
	Window int
	// ConfirmTimeout is how long the server may take for a window.
	ConfirmTimeout time.Duration
	// ConnectTimeout bounds connecting, and each other call to the server.
	ConnectTimeout time.Duration

	// Logger receives what no caller can be told. Default: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	c.Connections = cmp.Or(c.Connections, defaultConnections)
	c.Window = cmp.Or(c.Window, defaultWindow)
	c.ConfirmTimeout = cmp.Or(c.ConfirmTimeout, defaultConfirmTimeout)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, defaultConnectTimeout)
	c.Lease = cmp.Or(c.Lease, defaultLease)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// validate returns everything that is wrong with a configuration with its defaults.
func (c Config) validate() error {
	var errs []error
	refuse := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	refuse(c.Address == "", "Config.Address is empty: want host:port")
	refuse(c.Database < 0, "Config.Database is %d: want 0 or more", c.Database)
	refuse(c.Lease < time.Second, "lease is %s: want at least 1s", c.Lease)
	refuse(c.Connections < 0, "connections is %d: want a positive number", c.Connections)
	refuse(c.Window < 0, "window is %d: want a positive number", c.Window)
	refuse(c.ConfirmTimeout < 0, "confirm_timeout is %s: want a positive duration", c.ConfirmTimeout)
	refuse(c.ConnectTimeout < 0, "connect_timeout is %s: want a positive duration", c.ConnectTimeout)
	refuse(c.Inbox && c.Queue != "", "Config.Inbox and Config.Queue are set: set one")
	refuse(len(c.Queue) > longestName, "queue %.40q: want at most %d bytes", c.Queue, longestName)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the Redis configuration: %w", err)
	}
	return nil
}

func checkTopic(topic string) error {
	if topic == "" {
		return errors.New("the topic is empty")
	}
	if len(topic) > longestTopic {
		return fmt.Errorf("the topic has %d bytes: want at most %d", len(topic), longestTopic)
	}
	return nil
}

func deadLetterQueue(queue string) string { return "dead_letter_" + queue }
