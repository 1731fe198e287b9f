package converge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/transport"
)

// AnswererConfig configures an Answerer. The zero value is usable.
type AnswererConfig struct {
	// Pace is how often each replica gets a heartbeat, and how often the queues are looked at, at
	// most an hour. Default: 10 s.
	Pace time.Duration
	// Queues names replicas whose queues are made before they have reported, each with its models;
	// none means all of the outbox. Default: those that have reported.
	Queues map[string][]string
	// VerifyEvery is how often each replica is compared with the master, key by key, where it takes
	// part; that needs 5 % of a core at most. A negative one compares only when somebody asks.
	// Default: 1 h.
	VerifyEvery time.Duration
	// KeysPerMinute is how many states each replica may ask for. What is beyond is not answered, and
	// asked for again later. Default: 60,000.
	KeysPerMinute int
	// BackfillWaiting is how many messages a backfill lets wait in a replica's queue, at least 100. It
	// sends far fewer at a time while the replica takes them. Default: 20,000.
	BackfillWaiting int
	// Logger receives replicas that are new, and queues that vanished. Default: slog.Default().
	Logger *slog.Logger
}

const (
	defaultPace          = 10 * time.Second
	maxPace              = time.Hour
	defaultKeysPerMinute = 60_000
	defaultFillWaiting   = 20_000
	leastFillWaiting     = 100
)

func (c AnswererConfig) withDefaults() AnswererConfig {
	c.Pace = cmp.Or(c.Pace, defaultPace)
	c.VerifyEvery = cmp.Or(c.VerifyEvery, time.Hour)
	c.KeysPerMinute = cmp.Or(c.KeysPerMinute, defaultKeysPerMinute)
	c.BackfillWaiting = cmp.Or(c.BackfillWaiting, defaultFillWaiting)
	c.Logger = cmp.Or(c.Logger, slog.Default())
	return c
}

// validate checks a config that has its defaults, all fields at once.
func (c AnswererConfig) validate(models []string) error {
	errs := []error{checkPace(c.Pace)}
	if c.KeysPerMinute < 1 {
		errs = append(errs, fmt.Errorf("KeysPerMinute is %d: want at least 1, or 0 for %d",
			c.KeysPerMinute, defaultKeysPerMinute))
	}
	if c.BackfillWaiting < leastFillWaiting {
		errs = append(errs, fmt.Errorf("field BackfillWaiting is %d: want at least %d, or 0 for %d",
			c.BackfillWaiting, leastFillWaiting, defaultFillWaiting))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Queues)) {
		if !names.MatchString(name) {
			errs = append(errs, fmt.Errorf("field Queues: %q: want the name of a replica's queue", name))
		}
		for _, model := range c.Queues[name] {
			if !slices.Contains(models, model) {
				errs = append(errs, fmt.Errorf("field Queues: %s: model %q is not registered with the outbox",
					name, model))
			}
		}
	}
	return errors.Join(errs...)
}

func checkPace(pace time.Duration) error {
	if pace <= 0 || pace > maxPace {
		return fmt.Errorf("field Pace is %s: want a positive time, at most %s, or 0 for %s",
			pace, maxPace, defaultPace)
	}
	return nil
}

// Answerer is the master's side of the conversation. Several may work for one master, in its relays
// or services: each report and each request reaches one of them.
type Answerer struct {
	config    AnswererConfig
	broker    Broker
	publisher transport.BatchPublisher
	of        *outbox.Box
	box       boxed.Box // what can be asked of it
	models    []string  // of the box, in order
	registry  *registry.Registry
	outbox    *queue.Queue
	log       *slog.Logger
	started   atomic.Bool
	limit     limit
	said      sync.Map // what is in the log already, until it is over

	saidIgnored atomic.Int64 // when it was logged last that something was ignored, in seconds

	asked    chan struct{} // a backfill may be there to be done
	counts   answered
	verified sync.Map              // targets that were asked, by queue and model
	missing  atomic.Pointer[error] // why a queue was not there when somebody looked last
}

// NewAnswerer makes the master's side for the models of an outbox. It talks to nobody; Run does.
func NewAnswerer(box *outbox.Box, broker Broker, config AnswererConfig) (*Answerer, error) {
	if box == nil {
		return nil, errors.New("converge: box is nil: pass the outbox of the service")
	}
	config = config.withDefaults()
	b := boxed.Of(box)
	models := b.Models()
	slices.Sort(models)
	if err := errors.Join(broker.validate(), config.validate(models)); err != nil {
		return nil, fmt.Errorf("converge: configuration: %w", err)
	}
	return &Answerer{
		config: config, broker: broker, publisher: transport.Batch(broker.Publisher),
		of: box, box: b, models: models,
		registry: registry.New(b.Own()), outbox: queue.New(b.Own()),
		log:   config.Logger,
		limit: limit{most: config.KeysPerMinute},
		asked: make(chan struct{}, 1),
	}, nil
}

// Run answers until ctx ends, and returns nil then. It waits for a
// broker or a database that is away.
func (a *Answerer) Run(ctx context.Context) error {
	if !a.started.CompareAndSwap(false, true) {
		return errors.New("converge: Run was called before: make a new Answerer")
	}
	inbox, err := a.broker.Inbox()
	if err != nil {
		return fmt.Errorf("converge: open what replicas send: %w", err)
	}
	var running sync.WaitGroup
	for _, model := range a.models {
		running.Go(func() { a.listen(ctx, inbox, model) })
	}
	running.Go(func() { a.every(ctx, "the heartbeat", a.config.Pace, a.beat) })
	running.Go(func() { a.every(ctx, "the queues of replicas", a.config.Pace, a.KeepQueues) })
	running.Go(func() {
		a.every(ctx, "the verification", min(a.config.Pace, verifyLook), a.verifyAll)
	})
	running.Go(func() { a.every(ctx, "questions about keys", inquireEvery, a.inquire) })
	running.Go(func() { a.backfills(ctx) })
	running.Wait()
	if err := inbox.Close(); err != nil {
		return fmt.Errorf("converge: close what replicas send: %w", err)
	}
	return nil
}

// every does something at a pace, and says when it begins to fail.
func (a *Answerer) every(
	ctx context.Context, what string, pace time.Duration, do func(context.Context) error,
) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for ctx.Err() == nil {
		a.say(ctx, what, do(ctx))
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// say logs an error once, and that it is over.
func (a *Answerer) say(ctx context.Context, what string, err error) {
	switch {
	case err == nil:
		if _, was := a.said.LoadAndDelete(what); was {
			a.log.Info("the conversation with replicas goes on", "what", what)
		}
	case ctx.Err() != nil:
	default:
		if _, was := a.said.Swap(what, true); !was {
			a.log.Warn("the conversation with replicas has trouble, and tries again",
				"what", what, "error", err)
		}
	}
}

// own returns those of some models that the master has.
func (a *Answerer) own(models []string) []string {
	var own []string
	for _, model := range models {
		if slices.Contains(a.models, model) {
			own = append(own, model)
		}
	}
	return own
}

// Answered counts what an Answerer has done since it was made.
type Answered struct {
	// Reports came, and Requests.
	Reports, Requests int64
	// Sent states were sent again, each to the replica that asked.
	Sent int64
	// Limited keys were asked for beyond KeysPerMinute.
	Limited int64
	// Ignored messages are of a version or a kind that this one does not know, or malformed.
	Ignored int64
	// VanishedQueues are queues of known replicas that the broker did not have, and that were made
	// again.
	VanishedQueues int64
}

type answered struct {
	reports, requests, sent, limited, ignored, vanished atomic.Int64
}

// Answered returns the counts so far.
func (a *Answerer) Answered() Answered {
	return Answered{
		Reports: a.counts.reports.Load(), Requests: a.counts.requests.Load(), Sent: a.counts.sent.Load(),
		Limited: a.counts.limited.Load(), Ignored: a.counts.ignored.Load(),
		VanishedQueues: a.counts.vanished.Load(),
	}
}

// limit bounds what each replica may ask for. It is safe for concurrent use.
type limit struct {
	most int

	mu    sync.Mutex
	since time.Time
	used  map[string]int
}

// take returns how many of n keys a queue may have now.
func (l *limit) take(queue string, n int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.used == nil || now.Sub(l.since) >= time.Minute {
		l.since, l.used = now, map[string]int{}
	}
	n = min(n, l.most-l.used[queue])
	l.used[queue] += n
	return n
}
