package kafka

import (
	"cmp"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// lane is a partition in the hands of a subscription, and what it fetched of that.
type lane struct {
	topic     string
	partition int32
	before    progress // when it was assigned
	entries   []entry  // from the first one that is not settled on
	seen      int64    // behind the last one fetched
	cursor    int      // no entry before it waits
	waiting   int
	held      int
	leaving   bool // nothing more is handed out
	changed   bool // since it was committed
}

type entry struct {
	record *kgo.Record // nil when it is settled
	offset int64
	held   bool
}

func newLane(topic string, partition int32, p progress) *lane {
	return &lane{topic: topic, partition: partition, before: p, seen: p.offset}
}

// add takes a record that was fetched. wanted is false for one that nobody gets.
func (l *lane) add(r *kgo.Record, wanted bool) {
	if r.Offset < l.seen {
		return // fetched before
	}
	l.seen = r.Offset + 1
	e := entry{record: r, offset: r.Offset}
	if !wanted || l.before.has(r.Offset) {
		e.record = nil
		l.changed = true
	} else {
		l.waiting++
	}
	l.entries = append(l.entries, e)
	l.trim()
}

// next returns the first record that waits, nil if none does. One that is too old by then is
// settled.
func (l *lane) next(tooOld func(*kgo.Record) bool) *kgo.Record {
	if l.leaving {
		return nil
	}
	for ; l.cursor < len(l.entries); l.cursor++ {
		e := &l.entries[l.cursor]
		if e.record == nil || e.held {
			continue
		}
		if !tooOld(e.record) {
			return e.record
		}
		e.record = nil
		l.waiting--
		l.changed = true
	}
	l.trim()
	return nil
}

// take hands out the record that next returned.
func (l *lane) take() {
	l.entries[l.cursor].held = true
	l.cursor++
	l.waiting--
	l.held++
	l.changed = true
}

// settle notes what became of a record in hands.
func (l *lane) settle(offset int64, acked bool) {
	i, found := slices.BinarySearchFunc(l.entries, offset, func(e entry, at int64) int {
		return cmp.Compare(e.offset, at)
	})
	if !found || !l.entries[i].held {
		return
	}
	e := &l.entries[i]
	e.held = false
	l.held--
	l.changed = true
	if acked {
		e.record = nil
		l.trim()
		return
	}
	l.waiting++
	l.cursor = min(l.cursor, i)
}

// trim forgets what is settled at the beginning.
func (l *lane) trim() {
	n := 0
	for n < len(l.entries) && l.entries[n].record == nil {
		n++
	}
	l.entries = l.entries[n:]
	l.cursor = max(0, l.cursor-n)
}

// progress is how far the lane is.
func (l *lane) progress() progress {
	p := progress{offset: l.seen, held: l.held}
	if len(l.entries) > 0 {
		p.offset = l.entries[0].offset
	}
	for _, e := range l.entries {
		if e.record != nil {
			continue
		}
		if last := len(p.settled) - 1; last >= 0 && p.settled[last].to == e.offset {
			p.settled[last].to++
			continue
		}
		p.settled = append(p.settled, span{e.offset, e.offset + 1})
	}
	for _, s := range l.before.settled { // not fetched yet
		if s.to > l.seen {
			p.settled = append(p.settled, span{max(s.from, l.seen), s.to})
		}
	}
	for len(p.settled) > 0 && p.settled[0].from <= p.offset {
		p.offset, p.settled = p.settled[0].to, p.settled[1:]
	}
	return p
}

// lanes is a heap: first is the lane whose next record was published first, so that what is read
// from several partitions comes about as it was published.
type lanes []waitingLane

type waitingLane struct {
	*lane
	published time.Time
}

func (h lanes) Len() int { return len(h) }
func (h lanes) Less(i, j int) bool {
	if h[i].published.Equal(h[j].published) {
		return h[i].topic < h[j].topic
	}
	return h[i].published.Before(h[j].published)
}
func (h lanes) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *lanes) Push(x any) { //nolint:revive // container/heap wants it
	if l, ok := x.(waitingLane); ok {
		*h = append(*h, l)
	}
}

func (h *lanes) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
