package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Config says who a replica is, and how it retries. Only Queue is required.
type Config struct {
	// Queue is the name of this replica service. All its processes share it, other services must
	// not: a message that is meant for another queue is skipped. Required, and the name the
	// transport's subscriber was opened with.
	Queue string
	// Schema qualifies the library's tables. Empty means the connection's search path.
	Schema string
	// TablePrefix stands before the names of the library's tables. Empty by default.
	TablePrefix string

	// Workers is how many transactions, and how many calls of HandleFunc, may run at the same time
	// in this process. One is enough for mirrors, because everything that waits goes into the next
	// transaction; more is for handlers that take their time. The order per key does not depend on
	// it: a key is in one transaction at a time. Where a subscriber waits for every ack (a stock
	// Watermill subscriber), it is also how many subscriptions each model has. Default 1.
	Workers int
	// Batch is how many messages a transaction takes at most; it takes those that wait, and never
	// waits for more. Default 500: beyond that little is won, and a transaction that fails is done
	// again in parts.
	Batch int
	// Window is how many messages may be held without an ack, so what bounds the memory together
	// with their size, and what RabbitMQ is told as prefetch count. It must cover what the workers
	// have in their transactions and what comes meanwhile, or they wait for the broker; what is
	// held here, another process of the queue cannot have. The subscriptions of all models share
	// it. Default Batch × (Workers + 1).
	Window int
	// WaitForMissing is how long a message of Handle or HandleFunc waits where the one that was
	// sent before it has not come, which another process of the queue may have. Then it is handled
	// all the same, with a gap. So long it also takes until a revision that a mirror passed over is
	// called missing. A queue that was made after the master began to write lacks the past: there
	// the first message of each key waits so long, unless the replica was loaded. Default 1 minute;
	// negative does not wait.
	WaitForMissing time.Duration
	// WindowBytes bounds the bodies of the messages that are held without an ack: nothing more is
	// read while they have as many, and the broker is asked for fewer at a time. One message may
	// exceed it. Count on several times as much memory, for what is made of them. Default 64 MiB.
	WindowBytes int
	// MaxPayload is how many bytes a message's body may have; a larger one is a dead letter, of
	// which nothing is read but whose it is. Half of what the database takes in one statement is
	// the limit where that is less (MariaDB: max_allowed_packet, 16 MiB by default). Default 16
	// MiB.
	MaxPayload int

	// Retry says how long a message that fails is tried. A model can have its own, see WithRetry.
	Retry RetryPolicy
	// HandlerTimeout bounds one try: a transaction with the handlers in it, a call of HandleFunc. A
	// try is not cut short when the consumer is stopped, so this is also how long a clean stop may
	// take. Default 30s.
	HandlerTimeout time.Duration
	// KeepTombstones is how long a deleted key is remembered, from when this replica applied the
	// delete. A save that is older than the delete and arrives after that time brings the row back,
	// so it must be longer than a message can be on its way: in a queue that nobody reads, in dead
	// letters that are sent again. Default 90 days; negative keeps them for ever.
	KeepTombstones time.Duration

	// DeadLetters takes the messages that can never be applied, in place of the table
	// replica_dead_letters: on the topic cqrs.dead_letter_<queue>.<model>, where django-cqrs's
	// dead_letters command finds them. Package transport/amqp makes their queue beside the
	// replica's; elsewhere make it before, because a broker drops what no queue is bound to. What
	// that command could not read, and would die of, goes to the table all the same: a body that is
	// not JSON, or lacks a part. A replica without a database has no table, and publishes it.
	// Default nil: the table.
	DeadLetters message.Publisher
	// DeadLetterTTL is how long the broker keeps what goes to DeadLetters, where it can tell.
	// Default 10 days, django-cqrs's; negative for ever.
	DeadLetterTTL time.Duration
	// OnGap is called where a message was applied although one before it never came, once that is
	// certain: see WaitForMissing. The row is right, because a message carries the whole state, but
	// a handler has missed something. It runs between transactions: be quick. Default nil.
	OnGap func(context.Context, Gap)
	// Tracer is told of transactions and calls of handlers. Package otel makes spans of them. Default
	// nil.
	Tracer Tracer
	// Logger receives what no caller can be told: dead letters, gaps, trouble with the database,
	// lost subscriptions. Default slog.Default().
	Logger *slog.Logger
}

// RetryPolicy says when a message that failed is tried again, and for how long. Meanwhile it waits
// in the table replica_waiting, newer messages of its key overtake it, and all other keys go on.
// Trouble with the database itself does not count: it stops everything, and nothing is given up
// because of it.
type RetryPolicy struct {
	// Attempts is after how many a message becomes a dead letter. Default 30, which is an hour and
	// three quarters.
	Attempts int
	// Min is the pause after the first failure, before random spread; each further one is twice as
	// long. Default 1s.
	Min time.Duration
	// Max bounds the pause. Default 5min.
	Max time.Duration
}

// Gap is a hole in the revisions of a key.
type Gap struct {
	Model, Key string
	// Had is the revision before, Missing the one that was sent after it and never came (where the
	// master did not say, the one before Applied), Applied the one that came.
	Had, Missing, Applied int64
}

func (p RetryPolicy) withDefaults(d RetryPolicy) RetryPolicy {
	return RetryPolicy{cmp.Or(p.Attempts, d.Attempts), cmp.Or(p.Min, d.Min), cmp.Or(p.Max, d.Max)}
}

func (p RetryPolicy) validate() error {
	var errs []error
	if p.Attempts < 1 {
		errs = append(errs, fmt.Errorf("Retry.Attempts is %d: want at least 1, or 0 for 30",
			p.Attempts))
	}
	if p.Min <= 0 {
		errs = append(errs, fmt.Errorf("Retry.Min is %s: want a positive time, or 0 for 1s", p.Min))
	}
	if p.Max < p.Min {
		errs = append(errs,
			fmt.Errorf("Retry.Max is %s: want at least Retry.Min (%s), or 0 for 5min", p.Max,
				p.Min))
	}
	return errors.Join(errs...)
}

func (c Config) withDefaults() Config {
	c.Workers = cmp.Or(c.Workers, 1)
	c.Batch = cmp.Or(c.Batch, 500)
	c.Window = cmp.Or(c.Window, max(c.Batch*(c.Workers+1), 1))
	c.WindowBytes = cmp.Or(c.WindowBytes, 64<<20)
	c.MaxPayload = cmp.Or(c.MaxPayload, 16<<20)
	c.Retry = c.Retry.withDefaults(RetryPolicy{Attempts: 30, Min: time.Second,
		Max: 5 * time.Minute})
	c.WaitForMissing = cmp.Or(c.WaitForMissing, time.Minute)
	c.HandlerTimeout = cmp.Or(c.HandlerTimeout, 30*time.Second)
	c.KeepTombstones = cmp.Or(c.KeepTombstones, 90*24*time.Hour)
	c.DeadLetterTTL = cmp.Or(c.DeadLetterTTL, 10*24*time.Hour)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// validate checks a Config that has its defaults, all fields at once.
func (c Config) validate() error {
	var errs []error
	check := func(ok bool, field string, value any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is %v: %s", field, value, want))
		}
	}
	check(c.Queue != "", "Queue", `""`, "name this replica service, for example webhooks")
	check(c.Workers >= 1, "Workers", c.Workers, "want at least 1, or 0 for 1")
	check(c.Batch >= 1, "Batch", c.Batch, "want at least 1, or 0 for 500")
	check(c.Window >= 1 && c.Window <= maxWindow, "Window", c.Window,
		fmt.Sprintf("want 1 to %d, or 0 for Batch × (Workers + 1)", maxWindow))
	check(c.WindowBytes >= 1, "WindowBytes", c.WindowBytes, "want at least 1 byte, or 0 for 64 MiB")
	check(c.MaxPayload >= 1, "MaxPayload", c.MaxPayload, "want at least 1 byte, or 0 for 16 MiB")
	errs = append(errs, c.Retry.validate())
	check(c.HandlerTimeout > 0, "HandlerTimeout", c.HandlerTimeout,
		"want a positive time, or 0 for 30s")
	return errors.Join(errs...)
}

// maxWindow is what fits AMQP's prefetch count.
const maxWindow = 65535
