package relay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/store"
)

// reader decides what is read next, and when.
type reader struct {
	batch     int
	idle      time.Duration // the longest time between two claims
	heartbeat time.Duration

	positions []*position
	ask       int           // how many messages the next claim asks for
	at        time.Time     // when to claim next
	poll      time.Duration // how long after that, if there is nothing
	again     bool          // there may be something that the claim under way does not see
	full      []*position   // lanes that gave as much as they were asked for, so may have more at once
	turned    int           // where in positions the next claim starts
	deep      bool          // the last claim asked full lanes only
	late      bool          // when the last claim came in, nothing was left to send of those before

	dueAt     time.Time // when a key may stop waiting; zero without one
	checkAt   time.Time // when to ask who writes
	blind     bool      // the database cannot tell
	backAt    time.Time // when to look back
	backLane  int       // where in positions the next look back begins, if it is not at all of them
	compactAt time.Time
	window    int  // how many messages the next compaction looks at
	droppable bool // the last claim brought messages that a newer one may replace
}

const (
	// checkEvery is how often floors are moved up to where nobody writes any more. A claim reads again
	// everything between the floor and the cursor of a lane, which costs more than to ask who writes. In
	// a backlog every claim asks.
	checkEvery = 50 * time.Millisecond

	// A claim costs as much as some hundred messages, so a backlog is read in claims of up to so many batches.
	backlogBatches = 4

	// A look back starts at the very beginning, for what was put there by hand. It walks over what is left of all that was
	// removed, a second for half a million rows, so in a backlog it is one lane's turn at a time.
	backEvery = 2 * time.Second

	// share is the part of the time, 1 in so many, that looking back and compacting in vain may take.
	share = 50
)

func newReader(cfg Config) reader {
	r := reader{batch: cfg.BatchSize, idle: cfg.PollInterval, heartbeat: cfg.heartbeat()}
	r.restart(nil)
	return r
}

// restart forgets how far lanes were read.
func (r *reader) restart(lanes []store.Lane) {
	positions := make([]*position, len(lanes))
	for i, l := range lanes {
		positions[i] = &position{lane: l.Lane}
	}
	*r = reader{
		batch: r.batch, idle: r.idle, heartbeat: r.heartbeat, poll: minPoll, window: minWindow, ask: r.batch, positions: positions,
	}
}

// hurry makes the next claim come at once.
func (r *reader) hurry() { r.poll, r.at, r.again = minPoll, time.Time{}, true }

// soon makes the next claim come as after any work.
func (r *reader) soon() {
	r.poll = minPoll
	if at := time.Now().Add(minPoll); r.at.After(at) {
		r.at = at
	}
}

// lookIn makes a claim come when a key may have stopped waiting.
func (r *reader) lookIn(wait time.Duration) {
	if at := time.Now().Add(wait); r.dueAt.IsZero() || at.Before(r.dueAt) {
		r.dueAt = at
	}
	r.notLater()
}

func (r *reader) notLater() {
	if !r.dueAt.IsZero() && r.dueAt.Before(r.at) {
		r.at = r.dueAt
	}
}

// plan is one claim.
type plan struct {
	positions []*position
	starts    []store.Start
	cursors   []int64 // as they were
	crowded   []bool
	perLane   int
	check     bool // ask who writes, so that floors can move
	back      int  // in how many lanes to start at the very beginning
	compact   int  // look at so many messages before, 0 for none

	connections int // to read over
}

func (r *reader) plan(now time.Time) plan {
	p := plan{}
	backlog := r.ask > r.batch
	switch {
	case now.Before(r.backAt):
	case backlog:
		p.back = 1
	default:
		p.back = len(r.positions)
	}
	if !r.dueAt.IsZero() && !now.Before(r.dueAt) {
		r.dueAt = time.Time{}
	}
	r.again = false
	p.positions = append(p.positions, r.positions[r.turned:]...)
	p.positions = append(p.positions, r.positions[:r.turned]...)
	// Few full lanes are asked for all there is room for, but every other time only, so that they hold up no others.
	r.deep = !r.deep && p.back == 0 && len(r.full) > 0 && len(r.full) <= len(r.positions)/2
	if r.deep {
		p.positions = r.full
	}
	p.perLane = max(1, r.ask/len(p.positions))
	if !backlog { // few lanes are no reason to look for many messages where there are none
		p.perLane = min(p.perLane, store.Short)
	}
	for _, at := range p.positions {
		start := store.Start{Lane: at.lane, After: at.floor}
		if p.back == len(r.positions) || p.back > 0 && at == r.positions[r.backLane] {
			start.After = 0
		}
		p.starts = append(p.starts, start)
		p.cursors = append(p.cursors, at.cursor)
		p.crowded = append(p.crowded, at.crowded)
		p.check = p.check || !r.blind && (backlog || at.cursor > at.floor && !now.Before(r.checkAt))
	}
	if len(r.full) > 0 && r.droppable && !now.Before(r.compactAt) {
		p.compact, p.check = r.window, !r.blind
	}
	return p
}

// claimConnections is how many of them a claim of a backlog takes. One keeps one core of the database busy, so two where
// the broker has waited for the last claim. Where other relays work, they do the same.
func (r *Relay) claimConnections() int {
	if r.reader.late && r.lease.alone {
		return 2
	}
	return 1
}

// claim reads messages, if it is time and there is room for them.
func (r *Relay) claim(work context.Context, now time.Time) {
	if r.tasks.claiming || r.reader.at.After(now) || r.database.retry.After(now) ||
		!r.hasRoom() || r.broker.on() && len(r.flow.ready) > 0 {
		return
	}
	r.tasks.claiming = true
	p, tenure, lanes := r.reader.plan(now), r.lease.tenure, r.lease.lanes
	p.connections = r.claimConnections()
	except := r.flow.except(p.starts)
	r.tasks.start(func() func() {
		ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL) // a database that hangs is one that is away
		defer cancel()
		got, err := r.read(ctx, p, except, lanes)
		return func() {
			r.tasks.claiming = false
			r.reader.late = r.flow.waiting()+r.tasks.messages == 0
			if current := tenure == r.lease.tenure; r.answered("claim", err) && current {
				r.reader.note(p, got, r.flow.add(got.claimed, r.reader.lane))
			}
			r.flow.letGo(r.reader.lane)
		}
	})
}

// hasRoom says whether more messages may come into memory. It is time for a claim before the last one's messages are used
// up, which takes about as long as to read the next ones.
//
// Messages that stand behind others of their keys will do as long as they keep the broker busy: a claim would bring more
// for which there is no room, and the next ones would have to look past all of those for one that there is room for.
func (r *Relay) hasRoom() bool {
	soon := r.flow.waiting()
	enough := soon+r.tasks.messages >= r.cfg.BatchSize && soon+r.flow.behind > backlogBatches/2*r.cfg.BatchSize
	return !enough && len(r.flow.known) < 4*backlogBatches*r.cfg.BatchSize+len(r.lease.lanes)
}

// harvest is what a claim brought.
type harvest struct {
	claimed []*store.Claimed
	unread  []int // lanes that were not read as far as was asked
	ended   bool  // keys stopped waiting, because of a newer message
	took    time.Duration

	checked bool
	writers store.Writers
	waiting func(lane int) bool

	seen, dropped int // by compaction
	compactTook   time.Duration
	floors        map[int]int64 // of lanes: compaction has found nothing else up to there
}

func (r *Relay) read(ctx context.Context, p plan, except store.Except, lanes []store.Lane) (got harvest, err error) {
	if p.compact > 0 {
		if err := r.compact(ctx, p, except, lanes, &got); err != nil {
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
	if p.check { // floors move over what was not found: it must be the right server that does not have it
		look = r.queue.Claim
	}
	claimed, unread, err := look(ctx, p.starts, p.perLane, p.connections, except)
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
	var ended []store.Key
	got.claimed = claimed[:0]
	for _, m := range claimed {
		if m.Waiting {
			ended = append(ended, keyOf(m))
		} else {
			got.claimed = append(got.claimed, m)
		}
	}
	got.ended = len(ended) > 0
	return got, r.queue.Hasten(ctx, ended)
}

// inOrder returns an error if messages of a lane did not come in their order: the later ones of a
// key would leave first (P4).
func inOrder(claimed []*store.Claimed) error {
	before := &store.Claimed{}
	for _, m := range claimed {
		if m.Lane == before.Lane && m.ID <= before.ID {
			return fmt.Errorf("the database returned %d after %d of lane %d", m.ID, before.ID, m.Lane)
		}
		before = m
	}
	return nil
}

func (r *Relay) check(ctx context.Context, got *harvest) error {
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

// checkAgain: a former owner of a lane, stopped until now, may have made a key wait between the question and the claim, which
// then left it out without anybody knowing.
func (r *Relay) checkAgain(ctx context.Context, got *harvest) error {
	before := got.waiting
	after, err := r.queue.WaitingLanes(ctx)
	got.waiting = func(lane int) bool { return before(lane) || after(lane) }
	return err
}

// note learns from a claim; added says how many of its messages came into memory.
func (r *reader) note(p plan, got harvest, added int) {
	index := make(map[int]int, len(p.positions))
	for i, at := range p.positions {
		index[at.lane] = i
	}
	counts, last := make([]int, len(p.positions)), make([]int64, len(p.positions))
	r.droppable = slices.ContainsFunc(got.claimed, func(m *store.Claimed) bool { return m.Replaceable() })
	for _, m := range got.claimed {
		i := index[m.Lane]
		counts[i]++
		if m.ID <= p.positions[i].floor && counts[i] == 1 {
			p.positions[i].rewind(m.ID - 1) // found by looking back: what follows it must not go before it
		}
		last[i] = m.ID
	}
	r.full = nil
	for i, at := range p.positions {
		seen := int64(math.MaxInt64)
		if counts[i] >= p.perLane || slices.Contains(got.unread, at.lane) {
			seen = last[i]
			r.full = append(r.full, at)
		}
		at.cursor = max(at.cursor, last[i])
		if !got.checked || got.waiting(at.lane) {
			continue
		}
		at.floor = max(at.floor, got.floors[at.lane])
		if !at.crowded {
			at.advance(got.writers, p.cursors[i], seen)
		}
	}
	switch {
	case len(got.unread) > 0:
		r.turn(got.unread[0])
		r.ask = len(got.claimed)
	case len(r.full) > 0:
		r.ask = min(2*r.ask, backlogBatches*r.batch)
	default:
		r.ask = r.batch
	}
	r.schedule(p, got, added)
}

// lane returns a lane's position, nil if it is another relay's.
func (r *reader) lane(number int) *position {
	for _, at := range r.positions {
		if at.lane == number {
			return at
		}
	}
	return nil
}

// turn makes the next claim start at a lane.
func (r *reader) turn(lane int) {
	r.turned = slices.IndexFunc(r.positions, func(at *position) bool { return at.lane == lane })
}

func (r *reader) schedule(p plan, got harvest, added int) {
	now := time.Now()
	if p.check {
		r.checkAt, r.blind = now.Add(checkEvery), !got.checked
	}
	if p.back > 0 {
		lanes := len(r.positions)
		r.backLane = (r.backLane + p.back) % lanes
		r.backAt = now.Add(max(backEvery*time.Duration(p.back)/time.Duration(lanes), share*got.took))
	}
	if p.compact > 0 {
		r.noteCompaction(p, got, now)
	}
	switch {
	case len(r.full) > 0 || r.again:
		r.at = now
	case added > 0:
		r.poll = minPoll
		r.at = now.Add(minPoll)
	default:
		r.at = now.Add(min(r.poll, r.heartbeat))
		r.poll = min(2*r.poll, r.idle)
	}
	if got.ended {
		r.lookIn(0)
	}
	r.notLater()
}
