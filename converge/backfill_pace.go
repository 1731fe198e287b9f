package converge

import (
	"context"
	"errors"
	"math"
	"time"
)

// What changes at the master stands behind a backfill in the replica's queue. So a backfill sends a
// little at a time, and finds out how fast the replica is. A replica takes what is there, writes it,
// and comes again: that something waits in its queue now and then says nothing. Where something
// always does, the backfill was too fast: it waits until that is gone, and goes on a little slower.
const (
	firstPace = 1000.0      // messages a second
	leastPace = 100.0       // also where the queue never is empty
	mostPace  = 1_000_000.0 // so that nothing overflows
	burstTime = 0.02        // seconds of it that go at once,
	fewAtOnce = 100         // but no fewer: each time costs something, here and there
	standing  = 0.03        // seconds of it that may stand in the queue
	standMost = 0.5         // and that may do so for a moment

	paceWindow = 250 * time.Millisecond // in which the queue has to be empty once
	paceLook   = 40 * time.Millisecond
	paceHeld   = time.Second // then some go all the same, up to the bound

	slower     = 0.7 // once for each time that it was too fast
	growFast   = 2.0 // in each window, until it was too fast for the first time
	growSlowly = 1.05
)

// pace decides how much goes when.
type pace struct {
	waiting func(context.Context) (int64, error)
	most    int // messages may wait in the queue, whatever happens
	limit   int // messages a second at most; 0 for none

	perSecond float64
	known     bool      // it was too fast before
	due       time.Time // when the next ones go
	window    paceOfWindow
}

// paceOfWindow is what was seen in a short time.
type paceOfWindow struct {
	began time.Time
	least int64 // that waited
	sent  int
}

// next returns how many messages may go now, once some may. alive is called while it waits.
func (p *pace) next(ctx context.Context, alive func(context.Context) error) (int, error) {
	if p.perSecond == 0 {
		p.perSecond = firstPace
	}
	sleep(ctx, time.Until(p.due))
	began, draining := time.Now(), false
	for {
		waiting, err := p.waiting(ctx)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return 0, err
		}
		now := time.Now()
		if p.look(now, waiting) && !draining {
			draining, p.known = true, true
			p.perSecond = math.Max(p.perSecond*slower, leastPace)
		}
		// Where it was too fast, what stands there goes first.
		few := p.few()
		if draining && float64(waiting) <= few || !draining && float64(waiting) <= few+p.perSecond*standMost {
			return p.burst(), nil
		}
		if waiting < int64(p.most) && now.Sub(began) > paceHeld {
			return p.burst(), nil
		}
		if err := alive(ctx); err != nil {
			return 0, err
		}
		sleep(ctx, paceLook)
	}
}

// look takes note of how many wait, and says whether it was too fast.
func (p *pace) look(now time.Time, waiting int64) (tooFast bool) {
	w := &p.window
	if w.began.IsZero() {
		*w = paceOfWindow{began: now, least: waiting}
		return false
	}
	w.least = min(w.least, waiting)
	took := now.Sub(w.began)
	if took < paceWindow || w.sent == 0 {
		return false
	}
	idle := float64(w.sent) < p.rate()*took.Seconds()/2
	tooFast = float64(w.least) > p.few()
	switch {
	case tooFast || idle:
	case !p.known:
		p.perSecond = math.Min(p.perSecond*growFast, mostPace)
	default:
		p.perSecond = math.Min(p.perSecond*growSlowly, mostPace)
	}
	*w = paceOfWindow{began: now, least: waiting}
	return tooFast
}

// rate is how many messages go a second.
func (p *pace) rate() float64 {
	if p.limit > 0 {
		return math.Min(p.perSecond, float64(p.limit))
	}
	return p.perSecond
}

func (p *pace) burst() int { return max(int(p.rate()*burstTime), fewAtOnce) }

// few is how many messages may stand in the queue.
func (p *pace) few() float64 { return math.Max(p.perSecond*standing, fewAtOnce) }

// sent notes that messages went.
func (p *pace) sent(n int) {
	p.window.sent += n
	now := time.Now()
	if late := now.Add(-5 * paceLook); p.due.Before(late) { // else what was late is made up for
		p.due = late
	}
	p.due = p.due.Add(time.Duration(float64(n) / p.rate() * float64(time.Second)))
}
