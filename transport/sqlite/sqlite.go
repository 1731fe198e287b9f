// Package sqlite is a message broker in a SQLite file: durable topics, named queues bound to them, consumers that
// compete for a queue, in any number of processes on one host. It needs nothing installed and no server.
//
// Publishing copies a message into every queue bound to its topic, in one transaction, and returns when it is on the
// disk. A message for a topic that no queue is bound to is dropped, as a broker drops it, unless Config.Mandatory is
// set. Consumers take messages on a lease, so those of a crashed process come back.
//
// Promises: order per queue, so per key (P4); at least once (P5); bounded (P10): a queue that nobody reads loses what
// is older than Config.Retention; the file keeps its largest size and uses the room again. Not for network file systems:
// SQLite's locks do not work there.
//
// Neighbours: transport, whose interfaces it implements; transport/internal/delivery, which runs the subscriptions;
// transport/open, which makes publishers and subscribers by URL.
package sqlite

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

// Defaults of Config.
const (
	DefaultRetention = 7 * 24 * time.Hour
	DefaultLease     = 15 * time.Second
	DefaultNackDelay = 100 * time.Millisecond
)

// Forever as Config.Retention keeps messages until they are acknowledged.
const Forever time.Duration = -1

// Config is for publishers and subscribers alike; each reads the fields that concern it.
type Config struct {
	// Path names the file, which is made when it is first used; its folder must exist. Give the broker a file of its
	// own: it shares one write lock with everything else in the file. Required.
	Path string
	// Logger receives what no caller can be told: dropped messages, trouble that is being retried. Default:
	// slog.Default().
	Logger *slog.Logger

	// Retention is how long a message waits in a queue before publishers drop it; one in the hands of a consumer
	// stays. Without it a queue that nobody reads any more would grow for ever. Each publisher applies its own to the
	// whole file, so the shortest wins. Default: 7 days. Forever: never dropped. Publishers only.
	Retention time.Duration
	// Mandatory makes publishing to a topic without a queue fail with transport.ErrUnroutable. Default: the message
	// is dropped. Publishers only.
	Mandatory bool

	// Queue is the queue to consume; subscribers of one queue, in any process, share its messages. Default: one queue
	// per topic, called like the topic. Subscribers only.
	Queue string
	// Lease is how long after the death of its process a message comes back. It is renewed at a third of that time,
	// so however long a handler takes, its message stays with it. A process that is suspended for longer may see a
	// message twice. Default: 15s. Subscribers only.
	Lease time.Duration
	// NackDelay is how long a nacked message waits before it returns to its place in the queue. Default: 100ms.
	// Subscribers only.
	NackDelay time.Duration
}

// complete returns the config with its defaults filled in and its path absolute, or everything that is wrong with it.
func (c Config) complete() (Config, error) {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Retention == 0 {
		c.Retention = DefaultRetention
	}
	if c.Lease == 0 {
		c.Lease = DefaultLease
	}
	if c.NackDelay == 0 {
		c.NackDelay = DefaultNackDelay
	}

	var errs []error
	switch {
	case c.Path == "":
		errs = append(errs, errors.New("sqlite.Config.Path is empty: name a file"))
	case strings.HasPrefix(c.Path, ":memory:"):
		errs = append(errs, fmt.Errorf("sqlite.Config.Path is %q: name a file, or use package transport/memory", c.Path))
	default:
		path, err := filepath.Abs(c.Path)
		if err != nil {
			errs = append(errs, fmt.Errorf("sqlite.Config.Path %q: %w", c.Path, err))
		}
		c.Path = path
	}
	if c.Retention < 0 && c.Retention != Forever {
		errs = append(errs, fmt.Errorf("sqlite.Config.Retention is %s: want a positive duration, or Forever", c.Retention))
	}
	if c.Lease < minLease {
		errs = append(errs, fmt.Errorf("sqlite.Config.Lease is %s: want at least %s", c.Lease, minLease))
	}
	if c.NackDelay < 0 {
		errs = append(errs, fmt.Errorf("sqlite.Config.NackDelay is %s: want a positive duration", c.NackDelay))
	}
	return c, errors.Join(errs...)
}

// minLease leaves a renewal time to wait for its turn to write.
const minLease = 100 * time.Millisecond
