// Package monitor shows how a relay is doing: /healthz, /readyz and /metrics (Prometheus).
//
//	mon, err := monitor.New(monitor.Config{})
//	rel, err := relay.New(db, mon.Publisher(publisher), relay.Config{})
//	mon.Watch(rel)
//	http.Handle("/", mon.Handler()) // or mon.Serve(ctx, listener)
//
// A relay is ready while it makes progress: it, or another, owns every lane, the database answers,
// and its oldest unsent message does not grow old while no batch is confirmed. While nothing waits,
// a publisher that is a transport.Prober is asked whether the broker would take messages. /readyz
// says which of these does not hold.
//
// Neighbours: relay does the work and counts it; it does not know this package, so that only those
// who want it link Prometheus. cmd/relay serves it under --health.
package monitor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cqrsync/cqrsync/relay"
)

// Config configures a Monitor. The zero value is usable.
type Config struct {
	// StuckAfter is how long the oldest message may wait while no batch is confirmed, and how long
	// the broker may be out of reach while nothing waits, before the relay counts as not ready.
	// Default: 30 s.
	StuckAfter time.Duration
	// QueryTimeout bounds the queries for /readyz and /metrics. Default: 5 s.
	QueryTimeout time.Duration
}

func (c Config) withDefaults() Config {
	c.StuckAfter = cmp.Or(c.StuckAfter, 30*time.Second)
	c.QueryTimeout = cmp.Or(c.QueryTimeout, 5*time.Second)
	return c
}

// validate checks a Config that has its defaults, all fields at once.
func (c Config) validate() error {
	var errs []error
	if c.StuckAfter < 0 {
		errs = append(errs, fmt.Errorf("StuckAfter is %s: want a positive time, or 0 for 30s",
			c.StuckAfter))
	}
	if c.QueryTimeout < 0 {
		errs = append(errs, fmt.Errorf("QueryTimeout is %s: want a positive time, or 0 for 5s",
			c.QueryTimeout))
	}
	return errors.Join(errs...)
}

// Monitor watches one relay. It is safe for concurrent use, and a prometheus.Collector for a
// registry of your own.
type Monitor struct {
	config  Config
	watched atomic.Pointer[watched]

	replicas atomic.Pointer[watchedReplicas]
	troubles atomic.Pointer[watchedTroubles]

	published publications
	contact   contact
	started   time.Time

	progress cached[relay.Progress]
	status   cached[relay.Status]
	batches  histograms
}

type watched struct{ Relay }

// Relay is what a Monitor asks of a *relay.Relay.
type Relay interface {
	ID() string
	Stats() relay.Stats
	ModelStats() map[string]relay.ModelStats
	Progress(ctx context.Context) (relay.Progress, error)
	Status(ctx context.Context) (relay.Status, error)
}

var (
	_ Relay                = (*relay.Relay)(nil)
	_ prometheus.Collector = (*Monitor)(nil)
)

// New makes a monitor that watches nothing yet.
func New(config Config) (*Monitor, error) {
	config = config.withDefaults()
	if err := config.validate(); err != nil {
		return nil, fmt.Errorf("monitor configuration: %w", err)
	}
	m := &Monitor{config: config, started: time.Now(), batches: newHistograms()}
	m.progress = cached[relay.Progress]{timeout: config.QueryTimeout, ask: Relay.Progress,
		fresh: time.Second}
	m.status = cached[relay.Status]{timeout: config.QueryTimeout, ask: Relay.Status,
		fresh: 10 * time.Second}
	return m, nil
}

// Watch says which relay it is. Call it once, before Run of the relay.
func (m *Monitor) Watch(r Relay) { m.watched.Store(&watched{r}) }

var errNothingWatched = errors.New("no relay is being watched: call Watch")

// cached asks the database seldom, however often somebody looks: an answer is used for at least as
// long as fresh, and for twenty times as long as it took, so that looking costs the database a
// twentieth of one connection at most.
type cached[T any] struct {
	ask     func(Relay, context.Context) (T, error)
	timeout time.Duration
	fresh   time.Duration

	mu     sync.Mutex
	until  time.Time
	answer T
	err    error
}

func (c *cached[T]) get(ctx context.Context, w *watched) (T, error) {
	if w == nil {
		var none T
		return none, errNothingWatched
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	start := time.Now()
	if start.Before(c.until) {
		return c.answer, c.err
	}
	// The answer is for whoever looks next, too: it does not end with the one who asked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.timeout)
	defer cancel()
	c.answer, c.err = c.ask(w.Relay, ctx)
	now := time.Now()
	c.until = now.Add(max(c.fresh, 20*now.Sub(start)))
	if c.err != nil {
		c.until = now.Add(c.fresh)
	}
	return c.answer, c.err
}
