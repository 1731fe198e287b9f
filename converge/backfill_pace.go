package converge

import (
	"context"
	"errors"
	"math"
	"time"
)

// What changes at the master stands behind a backfill in the replica's queue. So a backfill sends a
// little at a time, and finds out how fast the replica is. A replica takes what is there, writes
// it, and comes again: that something waits in its queue now and then says nothing. Where something
// always does, the backfill was too fast: it waits until that is gone, which shows what the replica
// can, and goes on with a part of that. It tries again later whether that was all.
const (
	firstPace = 1000.0      // messages a second
	leastPace = 100.0       // also where the queue never is empty
	mostPace  = 1_000_000.0 // so that nothing overflows
	burstTime = 0.01        // seconds of it that go at once,
	fewAtOnce = 50          // but no fewer: each time costs something, here and there
	fewStand  = 100         // may stand in the queue anyhow
	standMost = 0.5         // seconds of it that may do so for a moment

	paceWindow = 250 * time.Millisecond // in which the queue has to be empty once
	paceLook   = 40 * time.Millisecond
	paceHeld   = time.Second // then some go all the same, up to the bound

	tryAfter    = 15 * time.Second       // since that was seen
	takenByThen = 200 * time.Millisecond // the replica has in its hands what is not in the queue
	growFast    = 2.0                    // in each window, until it was too fast for the first time
	growSlowly  = 1.02
	leastSeen   = 0.8 // of its pace: a replica that pauses once is no slow one
)

// caution is how much a backfill leaves to what changes meanwhile.
type caution struct {
	ofReplica  float64 // of what a replica can goes at first,
	ofItAtMost float64 // and never more, until it is tried out again
	standing   float64 // seconds of the pace that may stand in the queue
	rest       float64 // of the time that it took to send some
}

var (
	besideChanges = caution{ofReplica: 0.6, ofItAtMost: 0.7, standing: 0.03, rest: 0.5}
	alone         = caution{ofReplica: 0.95, ofItAtMost: 1, standing: 0.2, rest: 0}
)

// calmAfter is for how long nothing must have changed at the master until a backfill takes what the
// replica can. The first change ends that, and waits behind what stands then.
const calmAfter = 2 * time.Second

// pace decides how much goes when.
type pace struct {
	waiting func(context.Context) (int64, error)
	most    int // messages may wait in the queue, whatever happens
	limit   int // messages a second at most; 0 for none
	// drawn returns a number that grows with what changes at the master; ok is false where the
	// database cannot tell, so that something may change at any time.
	drawn func(context.Context) (n int64, ok bool, err error)

	perSecond float64
	replica   float64   // what it can, 0 before that was seen
	seen      time.Time // when
	due       time.Time // when the next ones go
	began     time.Time // when the last ones went
	window    paceOfWindow
	caution   caution
	changes   changes
}

// changes is what is known of those at the master.
type changes struct {
	drawn       int64
	asked, last time.Time
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
		p.perSecond, p.caution = firstPace, besideChanges
	}
	sleep(ctx, time.Until(p.due))
	for began := time.Now(); ; {
		waiting, err := p.waiting(ctx)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return 0, err
		}
		now := time.Now()
		if err := p.seeChanges(ctx, now); err != nil {
			return 0, err
		}
		if p.look(now, waiting) {
			return p.drain(ctx, alive, waiting)
		}
		room := math.Min(p.few()+p.perSecond*standMost, float64(p.most-fewAtOnce))
		if float64(waiting) <= room || p.held(began, waiting) {
			return p.burst(), nil
		}
		if err := alive(ctx); err != nil {
			return 0, err
		}
		sleep(ctx, paceLook)
	}
}

// seeChanges decides how cautious the backfill is, a few times a second.
func (p *pace) seeChanges(ctx context.Context, now time.Time) error {
	c := &p.changes
	if p.drawn == nil || now.Sub(c.asked) < paceWindow {
		return nil
	}
	drawn, ok, err := p.drawn(ctx)
	if err != nil {
		return err
	}
	if !ok || drawn != c.drawn {
		c.last = now
	}
	c.drawn, c.asked = drawn, now
	was := p.caution
	if p.caution = besideChanges; now.Sub(c.last) > calmAfter {
		p.caution = alone
	}
	if p.caution != was && p.replica > 0 {
		p.perSecond = math.Max(p.replica*p.caution.ofReplica, leastPace)
	}
	return nil
}

// drawn is pace.drawn.
func (a *Answerer) drawn(ctx context.Context) (n int64, ok bool, err error) {
	writers, ok, err := a.outbox.Writers(ctx)
	return writers.Drawn, ok, err
}

// drain waits until what stands in the queue is gone, and learns from that how fast the replica is.
func (p *pace) drain(
	ctx context.Context, alive func(context.Context) error, first int64,
) (int, error) {
	began, waiting := time.Now(), first
	for float64(waiting) > p.few() {
		if p.held(began, waiting) {
			break
		}
		if err := alive(ctx); err != nil {
			return 0, err
		}
		sleep(ctx, paceLook)
		now, err := p.waiting(ctx)
		if err = errors.Join(err, ctx.Err()); err != nil {
			return 0, err
		}
		waiting = now
	}
	p.seen = time.Now()
	p.replica = math.Max(float64(first-waiting)/p.seen.Sub(began).Seconds(), p.perSecond*leastSeen)
	p.perSecond = math.Min(math.Max(p.replica*p.caution.ofReplica, leastPace), p.perSecond)
	sleep(ctx, takenByThen)
	p.due, p.window = time.Time{}, paceOfWindow{}
	return p.burst(), ctx.Err()
}

// held says that some go although too many wait.
func (p *pace) held(since time.Time, waiting int64) bool {
	return waiting <= int64(p.most-fewAtOnce) && time.Since(since) > paceHeld
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
	*w = paceOfWindow{began: now, least: waiting}
	switch {
	case tooFast || idle:
	case p.replica == 0:
		p.perSecond = math.Min(p.perSecond*growFast, mostPace)
	case now.Sub(p.seen) > tryAfter:
		p.perSecond = math.Min(p.perSecond*growSlowly, mostPace)
	default:
		grown := math.Min(p.perSecond*growSlowly, p.replica*p.caution.ofItAtMost)
		p.perSecond = math.Max(grown, p.perSecond)
	}
	return tooFast
}

// rate is how many messages go a second.
func (p *pace) rate() float64 {
	if p.limit > 0 {
		return math.Min(p.perSecond, float64(p.limit))
	}
	return p.perSecond
}

// burst begins to send as many.
func (p *pace) burst() int {
	p.began = time.Now()
	return max(int(p.rate()*burstTime), fewAtOnce)
}

// few is how many messages may stand in the queue.
func (p *pace) few() float64 { return math.Max(p.perSecond*p.caution.standing, fewStand) }

// sent notes that messages went.
func (p *pace) sent(n int) {
	p.window.sent += n
	now := time.Now()
	if late := now.Add(-5 * paceLook); p.due.Before(late) { // else what was late is made up for
		p.due = late
	}
	p.due = p.due.Add(time.Duration(float64(n) / p.rate() * float64(time.Second)))
	// Where sending takes all the time there is, some is left to others: to relays, to the broker.
	if rest := now.Add(time.Duration(float64(now.Sub(p.began)) * p.caution.rest)); p.due.Before(rest) {
		p.due = rest
	}
}
