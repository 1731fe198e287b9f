package relay

import (
	"context"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/transport"
)

// absence is that of a relay which cannot reach its broker while others are at work. It leaves its
// lanes to them, and takes none until it can: what stands in a lane waits for whoever owns that.
// One relay stays in any case: the last one, so that a broker that is away for all finds somebody
// when it comes back.
type absence struct {
	leaving bool      // signed off: nothing more is published, and the lease runs out
	until   time.Time // it takes no lane before, unless nobody else does
	pause   time.Duration
	joined  time.Time
}

// maxAbsence is the longest time between two tries to take part with a publisher that cannot be
// asked.
const maxAbsence = 10 * time.Minute

var errBrokerAway = errors.New("this relay cannot reach its broker, and others are at work")

// sick says that the broker has not answered for so long that others should try.
func (r *Relay) sick(now time.Time) bool {
	since := r.broker.since
	if r.absence.joined.After(since) {
		since = r.absence.joined
	}
	return r.broker.on() && now.Sub(since) >= r.cfg.LeaseTTL
}

// changing says that lanes are to be given or taken, as soon as nothing is in flight. Not while it
// is unknown whether what was sent last arrives: a lane is given away at once, and its next owner's
// messages could be faster.
func (r *Relay) changing(now time.Time) bool {
	return r.lease.unbalanced && !r.broker.on() && !now.Before(r.unsure)
}

// withdraw renews the lease only if nobody else is there, or the broker is there again and there
// was nothing to find that out with.
func (r *Relay) withdraw(work context.Context) {
	r.tasks.leasing = true
	until, tenure := r.lease.until, r.lease.tenure
	idle := r.flow.waiting()+r.tasks.messages == 0
	r.tasks.start(func() func() {
		ctx, cancel := context.WithDeadline(work, until)
		defer cancel()
		var others, back bool
		if idle {
			asked, away := r.probe(ctx)
			back = asked && away == nil
		}
		var err error
		if !back {
			others, err = r.queue.Withdraw(ctx, r.cfg.ID)
		}
		return func() {
			r.tasks.leasing = false
			switch {
			case tenure != r.lease.tenure: // it ended meanwhile
			case !r.answered("lease", err):
				r.lease.beat = time.Now().Add(r.cfg.heartbeat() / 3)
			case others:
				r.absence.leaving = true
			default:
				if back {
					r.broker.end()
				}
				r.renew(work)
			}
		}
	})
}

// probe asks the publisher whether the broker is there, if it can be asked.
func (r *Relay) probe(ctx context.Context) (asked bool, away error) {
	prober, asked := r.publisher.(transport.Prober)
	if !asked {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.heartbeat()/2)
	defer cancel()
	return true, prober.Probe(ctx)
}

// ended is called when the lanes are lost: if they were left on purpose, it is a while before it
// takes some again.
func (a *absence) ended(ttl time.Duration) {
	if a.leaving {
		a.leaving, a.pause = false, min(max(2*a.pause, ttl), maxAbsence)
		a.until = time.Now().Add(a.pause)
	}
}

// join takes lanes if the broker is there as far as can be known, or nobody else takes part.
func (r *Relay) join(work context.Context) {
	r.tasks.leasing = true
	absent := time.Now().Before(r.absence.until)
	r.tasks.start(func() func() {
		// a database that hangs is one that is away
		ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL)
		defer cancel()
		others, err := r.queue.Others(ctx, r.cfg.ID)
		var asked bool
		var away error
		if err == nil && (!others || !absent) {
			asked, away = r.probe(ctx)
		}
		return func() {
			r.tasks.leasing = false
			switch {
			case !r.answered("lease", err):
				return
			case away != nil:
				r.broker.begin(away)
			case asked:
				r.broker.end()
			}
			if others && (absent || away != nil) {
				r.lease.beat = time.Now().Add(r.cfg.heartbeat())
				return
			}
			r.absence.joined = time.Now()
			r.balance(work)
		}
	})
}
