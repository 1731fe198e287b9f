package relay

import (
	"context"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// supersedePause is how long it takes at least until what could not be removed is tried again.
const supersedePause = 50 * time.Millisecond

// supersede removes what messages replaced in memory, and lets these go when that is committed
// (P4). Were it left until they are confirmed, it would be there still when the relay is killed,
// when the confirm is lost with the lanes, or when the broker refuses what it has had before; and
// whoever reads it then without its successor, which lies behind it by any distance, would publish
// it for the first time after that.
//
// It is one statement for all that wait, so a key whose messages come faster than the broker
// answers costs one more for each state that leaves.
func (r *Relay) supersede(work context.Context, now time.Time) {
	if len(r.flow.replacing) == 0 || r.tasks.superseding || r.tasks.supersedeAt.After(now) ||
		r.database.retry.After(now) {
		return
	}
	r.tasks.superseding = true
	batch := r.flow.replacing
	r.flow.replacing = nil
	lanes, tenure := r.lease.lanes, r.lease.tenure
	list := make([]queue.Superseding, len(batch))
	for i, m := range batch {
		list[i] = queue.Superseding{Claimed: m.Claimed, Older: m.replaced}
	}
	r.tasks.start(func() func() {
		// a database that hangs is one that is away
		ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL)
		defer cancel()
		fates, err := r.queue.Supersede(ctx, r.cfg.ID, lanes, list)
		return func() {
			r.tasks.superseding = false
			if !r.answered("supersede", err) {
				fates = slices.Repeat([]queue.Superseded{queue.Standing}, len(batch))
			}
			if tenure == r.lease.tenure { // else they are another relay's
				r.noteSuperseded(batch, fates)
			}
		}
	})
}

func (r *Relay) noteSuperseded(batch []outgoing, fates []queue.Superseded) {
	for i, fate := range fates {
		switch m := &batch[i]; fate {
		case queue.Gone:
			r.stats.compacted.Add(int64(len(m.replaced)))
			r.flow.superseded(*m)
		case queue.Missing:
			r.flow.again(m)
		default:
			r.flow.replacing = append(r.flow.replacing, *m)
		}
		if fate != queue.Gone {
			r.tasks.supersedeAt = time.Now().Add(supersedePause)
		}
	}
}
