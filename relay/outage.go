package relay

import (
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// outage paces the tries while something the relay needs is away, and reports its coming and going,
// and once a minute that it lasts, not each try.
type outage struct {
	what    string
	log     *slog.Logger
	backoff backoff.ExponentialBackOff
	longest time.Duration
	jitter  func() float64
	since   time.Time // zero while nothing is wrong
	said    time.Time // when the log had it last
	retry   time.Time // nothing is tried before
	away    *atomic.Bool
	shown   *atomic.Pointer[Outage] // to whoever asks; nil while nothing is wrong
}

// Outage is something that a relay waits for.
type Outage struct {
	// What is broker or database.
	What string
	// Since is when it was away for the first time.
	Since time.Time
	// Err is why the last try failed.
	Err error
}

// Outages returns what the relay waits for now. It may be called at any time.
func (r *Relay) Outages() []Outage {
	var all []Outage
	for _, o := range []*outage{&r.broker, &r.database} {
		if now := o.shown.Load(); now != nil {
			all = append(all, *now)
		}
	}
	return all
}

// repeatAfter is how often an outage that lasts is logged again.
const repeatAfter = time.Minute

func newOutage(what string, log *slog.Logger, cfg Config, jitter func() float64) outage {
	return outage{
		what: what, log: log, longest: cfg.heartbeat(), jitter: jitter, away: &atomic.Bool{},
		shown: &atomic.Pointer[Outage]{},
		backoff: backoff.ExponentialBackOff{
			InitialInterval: 100 * time.Millisecond,
			Multiplier:      2,
			MaxInterval:     5 * time.Second,
		},
	}
}

func (o *outage) on() bool { return !o.since.IsZero() }

// begin notes that it is away. What failed at the same time counts as one try.
func (o *outage) begin(err error) {
	now := time.Now()
	if !o.on() {
		o.since = now
		o.away.Store(true)
		o.said = now
		o.backoff.Reset()
		o.log.Warn(o.what+" unavailable, trying again", "error", err)
	} else if now.Sub(o.said) > repeatAfter {
		o.said = now
		o.log.Error(o.what+" still unavailable, trying again", "for",
			now.Sub(o.since).Round(time.Second), "error", err)
	}
	o.shown.Store(&Outage{o.what, o.since, err})
	if !o.retry.After(now) {
		pause := time.Duration(float64(o.backoff.NextBackOff()) * (0.5 + o.jitter()))
		o.retry = now.Add(min(pause, o.longest))
	}
}

// end notes that it is there.
func (o *outage) end() {
	if o.on() {
		o.log.Info(o.what+" available again", "after", time.Since(o.since).Round(time.Millisecond))
		o.since, o.retry = time.Time{}, time.Time{}
		o.away.Store(false)
		o.shown.Store(nil)
	}
}
