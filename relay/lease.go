package relay

import (
	"context"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/store"
)

// lease is what this relay owns, and until when at least.
//
// The database's clock decides when it ends for others. Here it is counted on the monotonic clock from before the
// request, so it ends here first: what this relay still publishes, no other does yet (P4).
type lease struct {
	lanes []store.Lane
	until time.Time
	beat  time.Time // when to renew
}

func (l *lease) valid() bool { return time.Now().Before(l.until) }

// from lists the lanes from the given one on.
func (l *lease) from(first int) []int {
	numbers := make([]int, 0, len(l.lanes))
	for _, lane := range l.lanes {
		if lane.Lane >= first {
			numbers = append(numbers, lane.Lane)
		}
	}
	return numbers
}

// balance renews the lease when it is time, and gives or takes lanes. Nothing may be in flight.
func (r *Relay) balance(ctx context.Context) error {
	start := time.Now()
	if start.Before(r.lease.beat) {
		return nil
	}
	lanes, share, err := r.store.Balance(ctx, r.cfg.ID, r.cfg.LeaseTTL)
	if err != nil {
		if !r.lease.valid() {
			r.stats.lanes.Store(0)
		}
		return err
	}
	if len(lanes) != len(r.lease.lanes) {
		r.log.Info("lanes owned", "lanes", len(lanes), "before", len(r.lease.lanes))
	}
	r.stats.lanes.Store(int64(len(lanes)))
	if len(lanes) > 0 {
		r.owned.Do(func() { close(r.running) })
	}
	r.lease = lease{lanes: lanes, until: start.Add(r.cfg.LeaseTTL), beat: start.Add(r.cfg.heartbeat())}
	if len(lanes) < share { // others are about to give lanes back, or to run out
		r.lease.beat = start.Add(r.cfg.heartbeat() / 3)
	}
	return nil
}

// renew keeps the lease while messages are in flight. After an error it may be tried again until the lease ends; a
// lane that another relay has taken, after a jump of the database's clock, ends it at once.
func (r *Relay) renew(ctx context.Context) {
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, r.lease.until)
	defer cancel()
	lanes, err := r.store.Renew(ctx, r.cfg.ID, r.cfg.LeaseTTL)
	switch {
	case err != nil:
		r.lease.beat = time.Now().Add(r.cfg.heartbeat() / 3)
	case slices.Equal(lanes, r.lease.lanes):
		r.lease.until, r.lease.beat = start.Add(r.cfg.LeaseTTL), start.Add(r.cfg.heartbeat())
	default:
		r.lease = lease{}
	}
}
