package kafka

import (
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/sasl"
)

const (
	defaultPrefix         = "cqrs"
	defaultPartitions     = 6
	defaultMessageBytes   = 1_000_012 // what a broker takes at once, where nobody changed it
	defaultConnections    = 16
	defaultWindow         = 1000
	defaultConfirmTimeout = 30 * time.Second
	defaultConnectTimeout = 10 * time.Second
	defaultLease          = 30 * time.Second
	longestPrefix         = 50
	longestName           = 200 // of a queue, in bytes; as RabbitMQ's
)

// Config says which brokers and queue. NewConfig fills it from a URL; change what must differ. Zero
// values are the defaults that the package documentation names.
type Config struct {
	// Brokers are some of the cluster's, as host:port. Required.
	Brokers []string
	// SASL logs in; nil: nobody does.
	SASL sasl.Mechanism
	// TLS is the configuration of TLS; nil: without.
	TLS *tls.Config
	// Name is the client id.
	Name string

	// Prefix is what the names of topics and groups begin with: letters, digits and underscores.
	Prefix string
	// Partitions is how many partitions a topic has, where this package makes it.
	Partitions int
	// Replicas is how many brokers keep each message, where this package makes the topic. Zero: as
	// the brokers are configured.
	Replicas int
	// Retention is how long a message stays in a topic, where this package makes it. Zero: as the
	// brokers are configured.
	Retention time.Duration
	// Compact makes the topics of models keep the newest message of each key for ever, and a new
	// queue begin with these.
	Compact bool
	// NoDeclare leaves topics to somebody else.
	NoDeclare bool
	// MessageBytes is how large a message may be.
	MessageBytes int

	// Queue is the name of the replica service. Empty: one queue per topic, called like the topic.
	// A publisher needs none.
	Queue string
	// Inbox makes each topic's queue an inbox, see transport/open. It has no queue name.
	Inbox bool
	// Lease is after how long without a sign of life of its consumer a message goes to another one.
	Lease time.Duration

	// DropUnroutable drops a message whose topic is not there, where it is refused otherwise:
	// transport.ErrUnroutable.
	DropUnroutable bool
	// Connections is how many calls of PublishBatch are served at once; others wait.
	Connections int
	// Window is how many messages of a call may be unconfirmed at once.
	Window int
	// ConfirmTimeout is how long no message of a call may be confirmed before the call fails.
	ConfirmTimeout time.Duration
	// ConnectTimeout bounds connecting, and each other call to the brokers.
	ConnectTimeout time.Duration

	// Logger receives what no caller can be told. Default: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Prefix = cmp.Or(c.Prefix, defaultPrefix)
	c.Partitions = cmp.Or(c.Partitions, defaultPartitions)
	c.MessageBytes = cmp.Or(c.MessageBytes, defaultMessageBytes)
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
	refuse(len(c.Brokers) == 0, "Config.Brokers is empty: want addresses as host:port")
	refuse(!isPrefix(c.Prefix), "prefix %.40q: want at most %d letters, digits and _", c.Prefix,
		longestPrefix)
	refuse(c.Partitions < 1 || c.Partitions > 10_000, "partitions is %d: want 1 to 10000",
		c.Partitions)
	refuse(c.Replicas < 0 || c.Replicas > 100, "replicas is %d: want 1 to 100", c.Replicas)
	refuse(c.Retention < 0, "retention is %s: want a positive duration", c.Retention)
	refuse(c.MessageBytes < 1024 || c.MessageBytes > 100<<20,
		"message_bytes is %d: want 1024 to %d", c.MessageBytes, 100<<20)
	refuse(c.Lease < time.Second, "lease is %s: want at least 1s", c.Lease)
	refuse(c.Connections < 0, "connections is %d: want a positive number", c.Connections)
	refuse(c.Window < 0, "window is %d: want a positive number", c.Window)
	refuse(c.ConfirmTimeout < 0, "confirm_timeout is %s: want a positive duration", c.ConfirmTimeout)
	refuse(c.ConnectTimeout < 0, "connect_timeout is %s: want a positive duration", c.ConnectTimeout)
	refuse(c.Inbox && c.Queue != "", "Config.Inbox and Config.Queue are set: set one")
	if c.Queue != "" && !isInboxTopic(c.Queue) {
		errs = append(errs, checkQueue(c.Queue))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("the Kafka configuration: %w", err)
	}
	return nil
}

// isPrefix says that names that begin with a prefix and a dot, or a dash, are nobody else's.
func isPrefix(prefix string) bool {
	return prefix != "" && len(prefix) <= longestPrefix &&
		!strings.ContainsFunc(prefix, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_'
		})
}
