package nats

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	natsgo "github.com/nats-io/nats.go"

	"github.com/cqrsync/cqrsync/transport"
)

const (
	defaultStream         = "cqrs"
	defaultConnections    = 16
	defaultWindow         = 1000
	defaultConfirmTimeout = 30 * time.Second
	defaultConnectTimeout = 10 * time.Second
	defaultAckWait        = 30 * time.Second
	leastAckWait          = time.Second
	longestName           = 200 // of a queue, in bytes; as RabbitMQ's
)

// Config says which server, stream and queue. NewConfig fills it from a URL; change what must
// differ. Zero values are the defaults that the package documentation names.
type Config struct {
	// Servers are addresses as in nats://host:4222, without user and password. Required.
	Servers []string
	// Connect are further options of every connection: authentication, TLS.
	Connect []natsgo.Option
	// Name is that of the connections. Default: "cqrsync publisher" and "cqrsync subscriber".
	Name string

	// Stream is the stream's name.
	Stream string
	// Replicas is how many servers keep each message, where this package makes the streams.
	Replicas int
	// MaxBytes bounds the stream, where this package makes it. Zero: it has no bound.
	MaxBytes int64
	// NoDeclare leaves streams and consumers to somebody else.
	NoDeclare bool

	// Queue is the name of the replica service. Empty: one queue per topic, called like the topic.
	// A publisher needs none.
	Queue string
	// Inbox makes each topic's queue an inbox, see transport/open. It has no queue name.
	Inbox bool
	// AckWait is after how long without a sign of life of its consumer a message goes to another
	// one. At least a second.
	AckWait time.Duration

	// DropUnroutable drops a message for a topic that no queue is bound to, where it is refused
	// otherwise: transport.ErrUnroutable.
	DropUnroutable bool
	// Connections is how many calls of PublishBatch are served at once; others wait.
	Connections int
	// Window is how many messages of a call may be unconfirmed at once.
	Window int
	// ConfirmTimeout is how long the server may leave a message unconfirmed.
	ConfirmTimeout time.Duration
	// ConnectTimeout bounds connecting, and each call to the server.
	ConnectTimeout time.Duration

	// Logger receives what no caller can be told. Default: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.Stream = cmp.Or(c.Stream, defaultStream)
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.AckWait = cmp.Or(c.AckWait, defaultAckWait)
	c.Connections = cmp.Or(c.Connections, defaultConnections)
	c.Window = cmp.Or(c.Window, defaultWindow)
	c.ConfirmTimeout = cmp.Or(c.ConfirmTimeout, defaultConfirmTimeout)
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, defaultConnectTimeout)
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
	refuse(len(c.Servers) == 0, "Config.Servers is empty: want addresses as in nats://host:4222")
	refuse(!isName(c.Stream), "stream %.40q: want at most %d letters, digits, - and _",
		c.Stream, longestName)
	refuse(c.Replicas < 1 || c.Replicas > 5, "replicas is %d: want 1 to 5", c.Replicas)
	refuse(c.MaxBytes < 0, "max_bytes is %d: want a positive number, or 0 for no bound", c.MaxBytes)
	refuse(c.AckWait < leastAckWait, "ack_wait is %s: want at least %s", c.AckWait, leastAckWait)
	refuse(c.Connections < 0, "connections is %d: want a positive number", c.Connections)
	refuse(c.Window < 0, "window is %d: want a positive number", c.Window)
	refuse(c.ConfirmTimeout < 0, "confirm_timeout is %s: want a positive duration", c.ConfirmTimeout)
	refuse(c.ConnectTimeout < 0, "connect_timeout is %s: want a positive duration", c.ConnectTimeout)
	refuse(c.Inbox && c.Queue != "", "Config.Inbox and Config.Queue are set: set one")
	errs = append(errs, checkQueue(c.Queue))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("NATS configuration: %w", err)
	}
	return nil
}

// isName says that a stream can have this name, and other streams names that begin with it.
func isName(name string) bool {
	return name != "" && len(name) <= longestName && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') &&
			r != '-' && r != '_'
	})
}

// checkQueue refuses what cannot be told apart in a direct topic, and names that are too long for a
// consumer's.
func checkQueue(name string) error {
	if name == "" {
		return nil
	}
	if strings.HasPrefix(name, ".") || strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return fmt.Errorf("queue %.40q: want a name without a dot at its beginning, at its end, or "+
			"beside another one", name)
	}
	if len(consumerName(deadLetterQueue(name))) > 255 || len(name) > longestName {
		return fmt.Errorf("queue %.40q: want at most %d bytes, of which each that is no letter, "+
			"digit, - or _ counts three times", name, longestName)
	}
	return nil
}

// inboxTopics is what the topics of inboxes begin with.
var inboxTopics = transport.MasterTopic("")

func isInboxTopic(topic string) bool { return strings.HasPrefix(topic, inboxTopics) }

func deadLetterQueue(queue string) string { return "dead_letter_" + queue }
