package relay

import (
	"context"

	"github.com/cqrsync/cqrsync/internal/store"
)

// round is a walk over the lanes. Where one claim cannot ask them all, because they outnumber BatchSize or because
// messages are large, the next claim goes on at the lane after, so that every lane has its turn.
type round struct {
	lane  int  // where the next claim goes on
	more  bool // a lane that was asked has more messages
	limit int  // how many messages a claim may bring: BatchSize, less while they are large
}

// claim reads the next messages, about equally many of each lane. more says that a further claim would find others.
func (r *Relay) claim(ctx context.Context) (claimed []store.Claimed, more bool, err error) {
	left := r.lease.from(r.round.lane)
	if len(left) == 0 { // no lanes, or those that were left in this round have gone to another relay
		more = r.round.more
		r.round = round{limit: r.round.limit}
		return nil, more, nil
	}
	lanes := left[:min(len(left), r.round.limit)]
	perLane := r.round.limit / len(lanes)
	claimed, cut, err := r.store.Claim(ctx, lanes, perLane)
	if err != nil {
		return nil, false, err
	}
	last := lanes[len(lanes)-1]
	if cut {
		last = claimed[len(claimed)-1].Lane
		r.round.limit = len(claimed)
	}
	r.round.lane = last + 1
	r.round.more = r.round.more || cut || anyFull(claimed, perLane)
	if last < left[len(left)-1] {
		return claimed, true, nil
	}
	more = r.round.more
	r.round = round{limit: min(2*r.round.limit, r.cfg.BatchSize)}
	return claimed, more, nil
}

// anyFull says whether a lane gave as many messages as it was asked for, and so may have more.
func anyFull(claimed []store.Claimed, perLane int) bool {
	for i := perLane - 1; i < len(claimed); i++ {
		if claimed[i].Lane == claimed[i-perLane+1].Lane {
			return true
		}
	}
	return false
}
