package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	random "math/rand/v2"
	"os"
	"time"
)

// Config configures a Relay. The zero value is usable.
type Config struct {
	// ID names this relay in outbox_lanes and in logs. Two live relays must not have the same: they
	// would publish from the same lanes. A relay that is started again under its old one goes on at
	// once, without waiting for the lease to run out. Default: host name, process number and a
	// random part.
	ID string

	// BatchSize is how many messages are read and published at once, 1 to 10,000. More is faster up
	// to about a thousand, and more is sent again after a crash. Default: 1,000.
	BatchSize int

	// PollInterval is the longest time between two looks into an idle outbox; right after work they
	// are 5 ms apart. It bounds the delay of a message when no wake-up arrives. Default: 250 ms.
	PollInterval time.Duration

	// Wake receives when there is something to publish, so that it leaves at once: outbox.Box.Wake
	// in the same process. A wake-up that is lost costs PollInterval, nothing else. Default:
	// polling only.
	Wake <-chan struct{}

	// Handover, which is outbox.Box.Handover of one box in the same process, hands over what that
	// commits: it leaves at once, without being read from the outbox first, and is removed from
	// there when the broker has confirmed it. It wakes the relay, too. What other processes write,
	// and what is owned by other relays, goes the usual way. Default: none.
	Handover Handover

	// LeaseTTL is how long a lane stays with a relay that stopped answering, at least 50 ms.
	// Shorter takes over sooner; longer survives longer pauses of the database. It is renewed three
	// times in that time. Default: 10 s.
	LeaseTTL time.Duration

	// Before is called before the relay publishes anything, and again after a pause, until it
	// returns nil. It makes the queues that messages are to reach (converge.Answerer.KeepQueues).
	// Default: nothing.
	Before func(ctx context.Context) error

	// MaxAttempts is how often one message is tried before it moves to outbox_dead_letters and the
	// next message of its key goes. What is not the message's fault costs no attempt: a broker that
	// cannot be reached, and one that takes nothing to the message's topic (see
	// transport.AtDestination). Default: 20, which takes about an hour.
	MaxAttempts int

	// RetryMin and RetryMax bound how long a key waits after its message failed: RetryMin at first,
	// twice as long each time, or each time that the broker takes nothing to its topic. Default: 1
	// s and 5 min.
	RetryMin, RetryMax time.Duration

	// ShutdownTimeout is how long Run, once its context has ended, waits for the broker to confirm
	// what is in flight, and again for the database to take the lanes back. Default: 10 s.
	ShutdownTimeout time.Duration

	// Schema and TablePrefix say where the outbox tables are, as in outbox.Config. Default: the
	// connection's search path and no prefix.
	Schema, TablePrefix string

	// Logger receives one line per change of state: lanes owned, broker or database away and back,
	// messages given up. Default: slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	setDefault(&c.BatchSize, 1000)
	setDefault(&c.PollInterval, 250*time.Millisecond)
	setDefault(&c.LeaseTTL, 10*time.Second)
	setDefault(&c.MaxAttempts, 20)
	setDefault(&c.RetryMin, time.Second)
	setDefault(&c.RetryMax, max(5*time.Minute, c.RetryMin))
	setDefault(&c.ShutdownTimeout, 10*time.Second)
	if c.ID == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "unknown" // the random part still makes it unique
		}
		c.ID = fmt.Sprintf("%s-%d-%s", host, os.Getpid(), rand.Text()[:8])
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func setDefault[T int | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// validate checks a Config that has its defaults, all fields at once.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is %v: %s", field, value, want))
		}
	}
	check(c.BatchSize >= 1 && c.BatchSize <= 10_000, "BatchSize", c.BatchSize,
		"want 1 to 10000, or 0 for 1000")
	check(c.PollInterval > 0, "PollInterval", c.PollInterval,
		"want a positive time, or 0 for 250ms")
	check(c.LeaseTTL >= 50*time.Millisecond, "LeaseTTL", c.LeaseTTL,
		"want at least 50ms, or 0 for 10s")
	check(c.MaxAttempts >= 1, "MaxAttempts", c.MaxAttempts, "want at least 1, or 0 for 20")
	check(c.RetryMin > 0, "RetryMin", c.RetryMin, "want a positive time, or 0 for 1s")
	check(c.RetryMax >= c.RetryMin, "RetryMax", c.RetryMax,
		fmt.Sprintf("want at least RetryMin (%s), or 0 for 5m", c.RetryMin))
	check(c.ShutdownTimeout > 0, "ShutdownTimeout", c.ShutdownTimeout,
		"want a positive time, or 0 for 10s")
	return errors.Join(errs...)
}

// jitterOf draws numbers from 0 to 1 for Run's goroutine: others for another relay, and the same
// for the same, so that a simulation can be repeated.
func jitterOf(id string) func() float64 {
	seed := fnv.New64a()
	_, _ = seed.Write([]byte(id)) // a hash never fails
	return random.New(random.NewPCG(seed.Sum64(), 0)).Float64
}

// retryWait is how long a key waits whose message had failed attempts times before: doubled each
// time, and a fifth more or less, so that keys that failed together do not come back together.
func (c Config) retryWait(attempts int, jitter func() float64) time.Duration {
	wait := c.RetryMin
	for range attempts {
		if wait >= c.RetryMax/2 {
			wait = c.RetryMax
			break
		}
		wait *= 2
	}
	return time.Duration(float64(wait) * (0.8 + 0.4*jitter()))
}

// heartbeat is how often the lease is renewed, and the longest a relay ever pauses.
func (c Config) heartbeat() time.Duration { return c.LeaseTTL / 3 }
