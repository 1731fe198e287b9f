package relay

import (
	"math"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// reader decides what is read next: this file; and when: its schedule.
type reader struct {
	schedule
	lanes lanes
	batch int

	ask       int   // how many messages the next reading asks for
	full      lanes // those that gave as much as they were asked for, so may have more at once
	turned    int   // where in lanes the next reading starts
	deep      bool  // the last reading asked full lanes only
	backLane  int   // where in lanes the next look back begins, if it is not at all of them
	window    int   // how many messages the next compaction looks at
	droppable bool  // the last reading brought messages that a newer one may replace
}

// A reading costs as much as some hundred messages, so a backlog is read in readings of up to so
// many batches.
const backlogBatches = 4

func newReader(cfg Config) reader {
	return reader{schedule: newSchedule(cfg), batch: cfg.BatchSize, ask: cfg.BatchSize,
		window: maxWindow}
}

// restart forgets how far lanes were read.
func (r *reader) restart(cfg Config, owned []queue.Lane) {
	*r = newReader(cfg)
	r.lanes = newLanes(owned)
}

// plan is one reading. Its task knows nothing of the lanes but what stands here.
type plan struct {
	parts   []part
	perLane int
	check   bool // ask who writes, so that low-water marks can move
	back    int  // in how many lanes to start at the very beginning
	compact int  // look at so many messages before, 0 for none
}

// part is a lane's in a plan, as it was then.
type part struct {
	lane    *lane // for the loop only
	start   queue.Start
	high    int64
	blocked bool
}

func (p *plan) starts() []queue.Start {
	starts := make([]queue.Start, len(p.parts))
	for i := range p.parts {
		starts[i] = p.parts[i].start
	}
	return starts
}

func (r *reader) plan(now time.Time) plan {
	p := plan{}
	backlog := r.ask > r.batch
	switch {
	case now.Before(r.backAt):
	case backlog:
		p.back = 1
	default:
		p.back = len(r.lanes)
	}
	r.begin(now)
	read := r.turn(p.back > 0)
	p.perLane = max(1, r.ask/len(read))
	if !backlog { // few lanes are no reason to look for many messages where there are none
		p.perLane = min(p.perLane, queue.Short)
	}
	for _, l := range read {
		start := queue.Start{Lane: l.number, After: l.low}
		if p.back == len(r.lanes) || p.back > 0 && l == r.lanes[r.backLane] {
			start.After = 0
		}
		p.parts = append(p.parts, part{l, start, l.high, l.blocked})
		p.check = p.check || backlog || l.high > l.low && !now.Before(r.checkAt)
	}
	if len(r.full) > 0 && r.droppable && !now.Before(r.compactAt) {
		p.compact, p.check = r.window, true
	}
	return p
}

// turn lists the lanes to read, in their order. Few full lanes are asked for all there is room for,
// but every other time only, so that they hold up no others, and not when all are looked back at.
func (r *reader) turn(back bool) lanes {
	r.deep = !r.deep && !back && len(r.full) > 0 && len(r.full) <= len(r.lanes)/2
	if r.deep {
		return r.full
	}
	return slices.Concat(r.lanes[r.turned:], r.lanes[:r.turned])
}

// note learns from a reading; added says how many of its messages came into memory.
func (r *reader) note(p plan, got reading, added int) {
	r.droppable = slices.ContainsFunc(got.claimed, func(m *queue.Claimed) bool {
		return m.Replaceable()
	})
	r.full = nil
	for i, pass := range r.passes(p, got) {
		l := p.parts[i].lane
		if pass.seen < math.MaxInt64 {
			r.full = append(r.full, l)
		}
		l.note(pass)
	}
	switch {
	case len(got.unread) > 0:
		r.turned = slices.Index(r.lanes, r.lanes.of(got.unread[0]))
		r.ask = len(got.claimed)
	case len(r.full) > 0:
		r.ask = min(2*r.ask, backlogBatches*r.batch)
	default:
		r.ask = r.batch
	}
	r.reschedule(p, got, added)
}

// passes says for each part of a plan what the reading says of its lane.
func (r *reader) passes(p plan, got reading) []pass {
	index := make(map[int]int, len(p.parts))
	passes, counts := make([]pass, len(p.parts)), make([]int, len(p.parts))
	for i, part := range p.parts {
		index[part.start.Lane] = i
	}
	for _, m := range got.claimed {
		i := index[m.Lane]
		if counts[i]++; counts[i] == 1 {
			passes[i].first = m.ID
		}
		passes[i].last = m.ID
	}
	for i, part := range p.parts {
		pass := &passes[i]
		pass.seen, pass.before, pass.dropped = math.MaxInt64, part.high, got.dropped[part.start.Lane]
		if counts[i] >= p.perLane || slices.Contains(got.unread, part.start.Lane) {
			pass.seen = pass.last
		}
		if got.checked && !got.waiting(part.start.Lane) {
			pass.writers = &got.writers
		}
	}
	return passes
}

func (r *reader) reschedule(p plan, got reading, added int) {
	now := time.Now()
	if p.check {
		r.checkAt = now.Add(checkEvery)
	}
	if p.back > 0 {
		r.backLane = (r.backLane + p.back) % len(r.lanes)
		r.lookedBack(now, p.back, len(r.lanes), got.took)
	}
	if p.compact > 0 {
		r.noteCompaction(p, got, now)
	}
	r.end(now, added, len(r.full) > 0)
	if got.ended {
		r.dueIn(0)
	}
}

// noteCompaction repeats what paid at once. What did not pay is tried again later. It begins with
// the largest window, for the larger the part of a backlog it looks at, the more of them are of one
// key; after one that the database did not manage in time it begins with the smallest again.
func (r *reader) noteCompaction(p plan, got reading, now time.Time) {
	if 2*got.compacted >= got.seen && got.seen > 0 {
		r.compactAt = now
		return
	}
	r.compactAt = now.Add(max(time.Second, share*got.compactTook))
	switch {
	case got.seen == 0: // it did not end in time
		r.window = minWindow
	case got.seen >= p.compact/2:
		r.window = min(2*r.window, maxWindow)
	}
}
