package relay

import (
	"context"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// claim reads messages, if it is time and there is room for them.
func (r *Relay) claim(work context.Context, now time.Time) {
	if r.tasks.claiming || r.reader.at.After(now) || r.database.retry.After(now) ||
		!r.hasRoom() || r.broker.on() && len(r.flow.ready) > 0 {
		return
	}
	r.tasks.claiming = true
	p, tenure, owned := r.reader.plan(now), r.lease.tenure, r.lease.lanes
	except := r.flow.except(p.starts())
	r.tasks.start(func() func() {
		// a database that hangs is one that is away
		ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL)
		defer cancel()
		got, err := r.read(ctx, p, except, owned)
		return func() {
			r.tasks.claiming = false
			if current := tenure == r.lease.tenure; r.answered("claim", err) && current {
				r.reader.note(p, got, r.flow.add(got.claimed, r.reader.lanes))
			}
			r.flow.letGo(r.reader.lanes)
		}
	})
}

// hasRoom says whether more messages may come into memory. It is time for a reading before the last
// one's messages are used up, which takes about as long as to read the next ones.
//
// Messages that stand behind others of their keys will do as long as they keep the broker busy: a
// reading would bring more for which there is no room, and the next ones would have to look past
// all of those for one that there is room for.
func (r *Relay) hasRoom() bool {
	soon := r.flow.waiting()
	enough := soon+r.tasks.messages >= r.cfg.BatchSize &&
		soon+r.flow.behind > backlogBatches/2*r.cfg.BatchSize
	return !enough && len(r.flow.known) < 4*backlogBatches*r.cfg.BatchSize+len(r.lease.lanes)
}

// reading is what came of a plan.
type reading struct {
	claimed []*queue.Claimed
	unread  []int // lanes that were not read as far as was asked
	ended   bool  // keys stopped waiting, because of a newer message
	took    time.Duration

	checked bool
	writers queue.Writers
	waiting func(lane int) bool

	seen, compacted int // messages, by compaction
	compactTook     time.Duration
	dropped         map[int]int64 // of lanes: compaction has found nothing else up to there
}

func (r *Relay) read(
	ctx context.Context, p plan, except queue.Except, owned []queue.Lane,
) (got reading, err error) {
	if p.compact > 0 {
		if err := r.compact(ctx, p, except, owned, &got); err != nil {
			return got, err
		}
	}
	if p.check {
		if err := r.check(ctx, &got); err != nil {
			return got, err
		}
	}
	start := time.Now()
	look := r.queue.Glance
	// low-water marks move over what was not found: it must be the right server that does not have
	// it
	if got.checked {
		look = r.queue.Claim
	}
	claimed, unread, err := look(ctx, p.starts(), p.perLane, except)
	if err == nil {
		err = inOrder(claimed)
	}
	if err != nil {
		return got, err
	}
	got.took, got.unread = time.Since(start), unread
	if got.checked {
		if err := r.checkAgain(ctx, &got); err != nil {
			return got, err
		}
	}
	var ended []queue.Key
	got.claimed = claimed[:0]
	for _, m := range claimed {
		if m.Waiting {
			ended = append(ended, keyOf(m))
		} else {
			got.claimed = append(got.claimed, m)
		}
	}
	got.ended = len(ended) > 0
	return got, r.queue.MakeDue(ctx, ended)
}

// inOrder returns an error if messages of a lane did not come in their order: the later ones of a
// key would leave first (P4).
func inOrder(claimed []*queue.Claimed) error {
	before := &queue.Claimed{}
	for _, m := range claimed {
		if m.Lane == before.Lane && m.ID <= before.ID {
			return fmt.Errorf("the database returned %d after %d of lane %d", m.ID, before.ID,
				m.Lane)
		}
		before = m
	}
	return nil
}

// check asks who writes, and which keys wait. Where the database cannot tell, nothing is checked.
func (r *Relay) check(ctx context.Context, got *reading) error {
	writers, ok, err := r.queue.Writers(ctx)
	if err != nil || !ok {
		return err
	}
	if got.waiting, err = r.queue.WaitingLanes(ctx); err != nil {
		return err
	}
	got.checked, got.writers = true, writers
	return nil
}

// checkAgain: a former owner of a lane, stopped until now, may have made a key wait between the
// question and the reading, which then left it out without anybody knowing.
func (r *Relay) checkAgain(ctx context.Context, got *reading) error {
	before := got.waiting
	after, err := r.queue.WaitingLanes(ctx)
	got.waiting = func(lane int) bool { return before(lane) || after(lane) }
	return err
}
