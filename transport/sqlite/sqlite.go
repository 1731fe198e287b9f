// Package sqlite is a message broker in a SQLite file: durable topics, named queues bound to them,
// consumers that compete for a queue, in any number of processes on one host. It needs nothing
// installed and no server.
//
// Publishing copies a message into every queue bound to its topic, in one transaction, and returns
// when it is on the disk. A message that has expired (transport.ExpirationKey) is not handed out;
// publishers drop it from the file within a minute. A message for a topic that no queue is bound to
// is refused (transport.ErrUnroutable), unless Config.DropUnroutable is set. The file is made by
// the first consumer: a publisher does not make it, so that none fills a file which nobody reads.
// Consumers take messages on a lease, so those of a crashed process come back.
//
// Promises: order per queue, so per key (P4); at least once (P5); bounded (P10): publishing stops
// before the disk is full, so that consumers can go on; the file keeps its largest size and uses
// the room again. A queue that nobody reads any more grows until RemoveQueue or Config.Retention;
// the log names it once an hour. A file that is deleted or replaced while it is open is noticed:
// nothing counts as published that went to the file which is gone, and all go on with the one that
// stands at the path. Not for network file systems: SQLite's locks do not work there.
//
// Neighbours: transport, whose interfaces it implements; transport/internal/delivery, which runs
// the subscriptions; transport/open, which makes publishers and subscribers by URL.
package sqlite

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"
)

// Defaults of Config.
const (
	DefaultLease     = 15 * time.Second
	DefaultNackDelay = 100 * time.Millisecond
)

// Config is for publishers and subscribers alike; each reads the fields that concern it.
type Config struct {
	// Path names the file, which a subscriber makes; its folder must exist. Give the broker a file
	// of its own: it shares one write lock with everything else in the file. Required.
	Path string
	// Logger receives what no caller can be told: dropped messages, trouble that is being retried.
	// Default: slog.Default().
	Logger *slog.Logger

	// Retention is how long a message waits in a queue, by the clock, before publishers drop it,
	// whether a replica still wants it or not; one in the hands of a consumer stays. Each publisher
	// applies its own to the whole file, so the shortest wins. Default: 0, nothing is dropped.
	// Publishers only.
	Retention time.Duration
	// DropUnroutable makes publishing to a topic without a queue succeed: the message is dropped,
	// counted (see Publisher.Unroutable), and the first one of a topic is logged. Default:
	// transport.ErrUnroutable. Publishers only.
	DropUnroutable bool

	// Queue is the queue to consume; subscribers of one queue, in any process, share its messages.
	// Default: one queue per topic, called like the topic. Subscribers only.
	Queue string
	// Inbox makes the queue of each topic an inbox, for what is worth nothing when it is old: it is
	// called like the topic and bound to nothing else; a message waits there for 10 minutes at
	// most, and at most 10,000 do, of which the oldest make room for further ones; and an inbox
	// that has had no consumer for a day is removed. Queue must be empty. Subscribers only.
	Inbox bool
	// Lease is how long after the death of its process a message comes back. It is renewed at a
	// third of that time, so however long a handler takes, its message stays with it. A process
	// that is suspended for longer may see a message twice. Default: 15s. Subscribers only.
	Lease time.Duration
	// NackDelay is how long a nacked message waits before it returns to its place in the queue.
	// Default: 100ms. Subscribers only.
	NackDelay time.Duration
}

// complete returns the config with its defaults filled in and its path absolute, or everything that
// is wrong with it.
func (c Config) complete() (Config, error) {
	c = c.withDefaults()
	return c, c.validate()
}

// withDefaults fills in what is not set, and makes the path absolute.
func (c Config) withDefaults() Config {
	c.Logger = cmp.Or(c.Logger, slog.Default())
	c.Lease = cmp.Or(c.Lease, DefaultLease)
	c.NackDelay = cmp.Or(c.NackDelay, DefaultNackDelay)
	// else it stays, for open to fail on
	if path, err := filepath.Abs(c.Path); err == nil && c.namesFile() {
		c.Path = path
	}
	return c
}

func (c Config) namesFile() bool { return c.Path != "" && !strings.HasPrefix(c.Path, ":memory:") }

// validate checks a Config that has its defaults, all fields at once.
func (c Config) validate() error {
	var errs []error
	switch {
	case c.Path == "":
		errs = append(errs, errors.New("sqlite.Config.Path is empty: name a file"))
	case !c.namesFile():
		errs = append(errs,
			fmt.Errorf("sqlite.Config.Path is %q: name a file, or use package transport/memory",
				c.Path))
	}
	if c.Retention < 0 {
		errs = append(errs,
			fmt.Errorf("sqlite.Config.Retention is %s: want a positive duration, or 0 to drop "+
				"nothing", c.Retention))
	}
	if c.Inbox && c.Queue != "" {
		errs = append(errs,
			fmt.Errorf("sqlite.Config.Queue is %q: leave it empty where Inbox is set, "+
				"every topic has an inbox of its own", c.Queue))
	}
	if c.Lease < minLease {
		errs = append(errs, fmt.Errorf("sqlite.Config.Lease is %s: want at least %s", c.Lease,
			minLease))
	}
	if c.NackDelay < 0 {
		errs = append(errs, fmt.Errorf("sqlite.Config.NackDelay is %s: want a positive duration",
			c.NackDelay))
	}
	return errors.Join(errs...)
}

// minLease leaves a renewal time to wait for its turn to write.
const minLease = 100 * time.Millisecond
