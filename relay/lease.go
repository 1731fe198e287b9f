package relay

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// lease is what this relay owns, and until when at least.
//
// The database's clock decides when it ends for others. Here it is counted on the monotonic clock
// from before the request, so it ends here first: what this relay still publishes, no other does
// yet (P4).
type lease struct {
	lanes      []queue.Lane
	until      time.Time
	beat       time.Time // when to renew
	unbalanced bool      // lanes are to be given or taken, as soon as nothing is in flight
	tenure     *tenure   // nil without lanes
	alone      bool      // no other relay is at work
}

func (l *lease) owns() bool  { return len(l.lanes) > 0 }
func (l *lease) valid() bool { return time.Now().Before(l.until) }

func (l *lease) extend(until time.Time) {
	l.until = until
	if l.tenure != nil {
		l.tenure.until.Store(&until)
	}
}

func (l *lease) end(cause error) {
	if l.tenure != nil {
		l.tenure.cancel(cause)
	}
}

// tenure is the context of what is published under one ownership of lanes. Its deadline is the end
// of the lease and moves with it: a publisher that asks before each message sends none too late,
// also when the process was stopped in between and no timer has had its turn.
type tenure struct {
	context.Context
	cancel context.CancelCauseFunc
	until  atomic.Pointer[time.Time]
}

func newTenure(work context.Context) *tenure {
	t := &tenure{}
	t.Context, t.cancel = context.WithCancelCause(work)
	return t
}

func (t *tenure) Deadline() (time.Time, bool) { return *t.until.Load(), true }

var (
	errLeaseOver  = errors.New("the lease on the lanes ended before the broker had answered")
	errLanesTaken = errors.New("another relay has taken lanes of this one")
)

// keepLease renews the lease when it is time, and gives and takes lanes when nothing is in flight.
func (r *Relay) keepLease(work context.Context, now time.Time) {
	if r.tasks.leasing || r.database.retry.After(now) {
		return
	}
	due := !now.Before(r.lease.beat)
	switch {
	case r.absence.leaving:
	case !r.lease.owns() && due && r.quiet():
		r.join(work)
	case r.changing(now) && r.quiet():
		r.balance(work)
	case r.lease.owns() && due && r.sick(now):
		r.withdraw(work)
	case r.lease.owns() && due:
		r.renew(work)
	}
}

func (r *Relay) balance(work context.Context) {
	r.tasks.leasing = true
	// what stands under this name in the database is of a time of which nothing is known any more
	take := r.queue.Enter
	if r.lease.owns() {
		take = r.queue.Balance
	}
	r.tasks.start(func() func() {
		// a database that hangs is one that is away
		ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL)
		defer cancel()
		start := time.Now()
		owned, err := take(ctx, r.cfg.ID, r.cfg.LeaseTTL)
		return func() {
			r.tasks.leasing = false
			if r.answered("lease", err) {
				r.own(work, start, owned)
			}
		}
	})
}

// own notes what is owned from now on. Everything else starts over.
func (r *Relay) own(work context.Context, start time.Time, owned queue.Ownership) {
	lanes := owned.Lanes
	if !slices.Equal(lanes, r.lease.lanes) {
		if len(lanes) != len(r.lease.lanes) {
			r.log.Info("lanes owned", "lanes", len(lanes), "before", len(r.lease.lanes))
		}
		r.lease.end(errLanesTaken)
		r.lease = lease{lanes: lanes}
		if len(lanes) > 0 {
			r.lease.tenure = newTenure(work)
		}
		r.stats.lanes.Store(int64(len(lanes)))
		r.flow = newFlow(r.cfg)
		// its messages are read, and sent, once more: they must not end then by what they were
		// before
		r.held = results{}
		r.reader.restart(r.cfg, lanes)
		if len(lanes) > 0 {
			r.owned.Do(func() { close(r.running) })
		}
	}
	r.tellIncarnation(owned.Incarnation)
	r.lease.unbalanced, r.lease.alone = false, owned.Alone
	r.lease.extend(start.Add(r.cfg.LeaseTTL))
	r.lease.beat = start.Add(r.cfg.heartbeat())
	if owned.Coming() {
		r.lease.beat = start.Add(r.cfg.heartbeat() / 3)
	}
}

// tellIncarnation notes what is to stand beside each message from now on.
func (r *Relay) tellIncarnation(now queue.Incarnation) {
	if before := r.incarnation; before != "" && before != now.ID {
		r.log.Warn("the database went back or failed over: replicas are told by another "+
			"incarnation; compare them with relay diff",
			"incarnation", now.ID, "before", before, "reason", now.Reason)
	}
	r.incarnation = now.ID
}

// renew keeps the lease. After an error it is tried again until the lease ends; a lane that another
// relay has taken, after a jump of the database's clock, ends it at once.
func (r *Relay) renew(work context.Context) {
	r.tasks.leasing = true
	until, tenure := r.lease.until, r.lease.tenure
	r.tasks.start(func() func() {
		start := time.Now()
		ctx, cancel := context.WithDeadline(work, until)
		defer cancel()
		owned, err := r.queue.Renew(ctx, r.cfg.ID, r.cfg.LeaseTTL)
		return func() {
			r.tasks.leasing = false
			switch {
			case tenure != r.lease.tenure: // it ended meanwhile
			case !r.answered("lease", err):
				r.lease.beat = time.Now().Add(r.cfg.heartbeat() / 3)
			case !slices.Equal(owned.Lanes, r.lease.lanes):
				r.lose(errLanesTaken)
			default:
				r.tellIncarnation(owned.Incarnation)
				r.lease.extend(start.Add(r.cfg.LeaseTTL))
				r.lease.beat = start.Add(r.cfg.heartbeat())
				if owned.Coming() {
					r.lease.beat = start.Add(r.cfg.heartbeat() / 3)
				}
				r.lease.unbalanced, r.lease.alone = owned.Unbalanced(), owned.Alone
			}
		}
	})
}

// lose gives everything up: it is another relay's now. What is in flight is told to end.
//
// Also what the broker confirmed is forgotten, and so may be sent again: while nobody kept the
// lease, the database may have gone back, to where what is remembered never happened (P5).
func (r *Relay) lose(cause error) {
	if r.absence.leaving {
		cause = errBrokerAway
	}
	r.absence.ended(r.cfg.LeaseTTL)
	r.log.Warn("lanes lost", "lanes", len(r.lease.lanes), "error", cause)
	r.stats.leasesLost.Add(1)
	r.stats.lanes.Store(0)
	r.lease.end(cause)
	var again time.Time
	if errors.Is(cause, errLanesTaken) {
		// What is in flight may arrive for as long as the lease would have lasted. Until then this
		// relay must not send what is newer, either (P4).
		again = r.lease.until
	}
	r.lease = lease{beat: again}
	r.open, r.held = results{}, results{}
	r.flow = newFlow(r.cfg)
	r.reader.restart(r.cfg, nil)
}

// wentBack forgets everything, because none of it need be true of the database that answers now.
// What it says of the lanes need not be, either: the relay that had them in the end may not have
// noticed yet. So this one waits for as long as that one may go on (P4).
func (r *Relay) wentBack(cause error) {
	if r.lease.owns() {
		r.lose(cause)
	}
	r.lease.beat = time.Now().Add(r.cfg.LeaseTTL)
}

// answered notes whether the database did. An outage ends with an answer to what it began with.
func (r *Relay) answered(task string, err error) bool {
	if errors.Is(err, queue.ErrWentBack) {
		r.wentBack(err)
		return false
	}
	if err != nil {
		r.asked = task
		r.database.begin(err)
		return false
	}
	if task == r.asked {
		r.database.end()
	}
	return true
}
