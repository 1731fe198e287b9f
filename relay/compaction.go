package relay

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

const (
	// A window is read lane by lane, so each of its pages many times: it should fit into the
	// database's cache, of which PostgreSQL has 128 MB unless told otherwise. One of twice as many
	// messages takes longer for each.
	minWindow, maxWindow = 16 << 10, 128 << 10

	// compactPatience is how long a compaction waits until those who write are done, which costs
	// less than to walk over what it drops.
	compactPatience = 20 * time.Millisecond
)

// compact looks at what was not read yet, at a part of it first, and then at as much as one
// statement may, as long as at least half is dropped: all before any of it is read, because what is
// read is published.
//
// What it drops stays in the database's way until that cleans up. Where nothing can appear among it
// any more, the next window and the claim begin behind it; elsewhere they walk over it.
func (r *Relay) compact(
	ctx context.Context, p plan, except queue.Except, owned []queue.Lane, got *reading,
) error {
	complete, drawn, err := r.complete(ctx, p, except)
	if err != nil {
		return err
	}
	start := time.Now()
	starts := p.starts()
	for i := range starts {
		starts[i].After = p.parts[i].high
	}
	for window := p.compact; ; window = maxWindow {
		done, err := r.queue.Compact(ctx, r.cfg.ID, owned, starts, window/len(starts)+1,
			r.cfg.LeaseTTL/2)
		r.stats.compacted.Add(int64(done.Dropped))
		got.seen, got.compacted, got.compactTook = got.seen+done.Seen, got.compacted+
			done.Dropped, time.Since(start)
		if err != nil {
			return err
		}
		for i, left := range done.Left {
			if complete[left.Lane] {
				starts[i].After = max(starts[i].After, min(left.After, drawn))
			}
		}
		if 2*done.Dropped < done.Seen || done.Seen == 0 || got.compactTook > r.cfg.LeaseTTL/4 {
			break
		}
	}
	got.dropped = map[int]int64{}
	for i, at := range starts {
		if complete[at.Lane] && at.After > p.parts[i].start.After {
			p.parts[i].start.After, got.dropped[at.Lane] = at.After, at.After
		}
	}
	return nil
}

// complete lists the lanes of which all that is unsent up to the high-water mark is in memory, and
// says up to where nothing can be committed late. It is a look from the low-water marks when those
// who were writing have ended, as in lane.advance.
func (r *Relay) complete(
	ctx context.Context, p plan, except queue.Except,
) (lanes map[int]bool, drawn int64, err error) {
	writers, ok, err := r.ended(ctx)
	if err != nil || !ok {
		return nil, 0, err
	}
	waiting, err := r.queue.WaitingLanes(ctx)
	if err != nil {
		return nil, 0, err
	}
	next, unread, err := r.queue.Claim(ctx, p.starts(), 1, except)
	if err != nil {
		return nil, 0, err
	}
	first := map[int]int64{}
	for _, lane := range unread {
		first[lane] = 0
	}
	for _, m := range next {
		first[m.Lane] = m.ID
	}
	lanes = map[int]bool{}
	for _, part := range p.parts {
		number := part.start.Lane
		id, more := first[number]
		lanes[number] = !part.blocked && !waiting(number) && (!more || id > part.high)
	}
	return lanes, writers.Drawn, nil
}

// ended lists who is writing and waits until none of them is any more. ok is false if that takes
// too long, and where the database cannot tell.
func (r *Relay) ended(ctx context.Context) (listed queue.Writers, ok bool, err error) {
	listed, ok, err = r.queue.Writers(ctx)
	if err != nil || !ok {
		return listed, false, err
	}
	patience := time.NewTimer(compactPatience)
	defer patience.Stop()
	for left := slices.Collect(maps.Keys(listed.Open)); len(left) > 0; {
		select {
		case <-patience.C:
			return listed, false, nil
		case <-time.After(time.Millisecond):
		}
		now, _, err := r.queue.Writers(ctx)
		if err != nil {
			return listed, false, err
		}
		left = now.Left(left)
	}
	return listed, true, nil
}
