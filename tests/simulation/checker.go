package simulation

import (
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// checker knows what was committed and what arrived, and notes what of it breaks a promise.
type checker struct {
	began time.Time
	log   *slog.Logger

	mu     sync.Mutex
	keys   map[string]*history
	faults []string
	trace  uint64 // of all that happened, to tell two courses apart
	wait   time.Duration
	events int

	restores int
	stale    map[string]bool // incarnations that were drawn before the database went back
	untold   bool            // it did, and nobody tells relays
}

// history is that of a key.
type history struct {
	committed []commit // in the order of revisions; what the database lost is not among them
	ever      map[version]bool
	arrived   map[version]time.Time
	since     map[version]bool // arrived since the database went back
	newest    int64            // revision that arrived, -1 before
	refused   map[version]bool // by the broker, once at least, and a relay knows
	left      bool             // a relay has handed a message to the network
	last      map[string]int64 // newest revision that arrived, by incarnation
}

// version is a state of a key. The timeline is how often the database had gone back before it was
// written, for then it draws the same revisions once more.
type version struct {
	revision int64
	timeline string
}

type commit struct {
	queue.Message
	at time.Time
}

func newChecker(log *slog.Logger) *checker {
	return &checker{began: time.Now(), log: log, keys: map[string]*history{}, stale: map[string]bool{}}
}

func (c *checker) of(key string) *history {
	h := c.keys[key]
	if h == nil {
		h = &history{
			newest:  -1,
			refused: map[version]bool{},
			ever:    map[version]bool{}, arrived: map[version]time.Time{}, since: map[version]bool{},
			last: map[string]int64{},
		}
		c.keys[key] = h
	}
	return h
}

func (c *checker) fault(format string, args ...any) {
	at := time.Since(c.began).Round(time.Microsecond)
	c.faults = append(c.faults, fmt.Sprintf("%v: ", at)+fmt.Sprintf(format, args...))
}

// note adds to the trace.
func (c *checker) note(what string) {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %d %s", c.trace, time.Since(c.began), what)
	c.trace = h.Sum64()
	c.events++
	c.log.Debug(what, "after", time.Since(c.began))
}

func (c *checker) commits(messages []queue.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range messages {
		c.note(fmt.Sprintf("commit %s/%d", m.Key, m.Revision))
		h := c.of(m.Key)
		h.committed = append(h.committed, commit{m, time.Now()})
		h.ever[version{m.Revision, m.CorrelationID}] = true
	}
}

// leaves judges a message that is handed to the network: were the relay killed now, an older one of
// the key that never left would do so behind it.
func (c *checker) leaves(by string, m *envelope.Message, unsent []queue.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(fmt.Sprintf("send %s/%d by %s", m.Key, m.Revision, by))
	h := c.of(m.Key)
	h.left = true
	if !c.orderly(m.Incarnation) {
		return
	}
	for _, older := range unsent {
		arrived := h.since[version{older.Revision, older.CorrelationID}]
		if older.Key == m.Key && older.Revision < m.Revision && !arrived && older.Signal != "SYNC" {
			c.fault("P4: %s/%d leaves while %d, which never left, stays in the outbox",
				m.Key, m.Revision, older.Revision)
		}
	}
}

// hasLeft says that a relay knows of a key.
func (c *checker) hasLeft(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.of(key).left
}

// arrives judges a message that the broker has. excused says that a dead relay handed it to the
// network, which held it for longer than its lease.
func (c *checker) arrives(m *envelope.Message, excused bool, dead []queue.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.note(fmt.Sprintf("arrive %s/%d %v", m.Key, m.Revision, excused))
	h, v := c.of(m.Key), version{m.Revision, m.CorrelationID}
	if !h.ever[v] {
		c.fault("P1: %s/%d was never committed", m.Key, m.Revision)
	}
	if c.orderly(m.Incarnation) && m.Signal != envelope.Sync {
		c.inOrder(h, m, excused, dead)
	}
	if _, before := h.arrived[v]; !before {
		h.arrived[v] = time.Now()
	}
	h.since[v] = true
	h.last[m.Incarnation] = max(h.last[m.Incarnation], m.Revision)
	h.newest = max(h.newest, m.Revision)
}

// refuses notes that a relay knows of a message that the broker does not take it.
func (c *checker) refuses(m *envelope.Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.of(m.Key).refused[version{m.Revision, m.CorrelationID}] = true
}

// inOrder judges whether a message comes in the order of its key.
//
// One that was refused may be replaced by a newer one, which leaves then. Did it leave once before
// that, and was not answered, the network may still have it: it left in its order, and comes late.
func (c *checker) inOrder(h *history, m *envelope.Message, excused bool, dead []queue.Message) {
	last, v := h.last[m.Incarnation], version{m.Revision, m.CorrelationID}
	if !h.since[v] && m.Revision < last && !excused && !h.refused[v] {
		c.fault("P4: %s/%d comes for the first time after %d", m.Key, m.Revision, last)
	}
	if after := m.After; after != nil && m.Revision > h.newest && *after > h.newest &&
		!slices.ContainsFunc(dead, func(d queue.Message) bool {
			return d.Key == m.Key && d.Revision > h.newest
		}) {
		c.fault("P8: %s/%d says that it follows %d, and %d was the last that came",
			m.Key, m.Revision, *after, h.newest)
	}
}

// ends judges the whole: what was committed has arrived, or was given up, or a newer message that
// did replaced it. Nobody waited for others for longer than patient, unless that is 0.
func (c *checker) ends(
	dead []queue.Message, patient time.Duration, poisoned func(key string) bool,
) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, h := range c.keys {
		slices.SortFunc(h.committed, func(a, b commit) int { return int(a.ID - b.ID) })
		var next *commit
		var served time.Time // when next was
		var replacing bool   // one behind next is a newer state, which is all that counts out of order
		for i := len(h.committed) - 1; i >= 0; i-- {
			m := &h.committed[i]
			at, arrived := h.arrived[version{m.Revision, m.CorrelationID}]
			given := slices.ContainsFunc(dead, func(d queue.Message) bool { return d.ID == m.ID })
			replaced := next != nil && m.Replaceable() && (next.Replaceable() || c.untold && replacing)
			switch {
			case arrived || given:
			case replaced:
				at = served
			default:
				c.fault("P5: %s/%d (%s) was committed and never arrived", key, m.Revision, m.Signal)
			}
			served, next = at, m
			replacing = replacing || m.Replaceable()
			if patient == 0 || given || poisoned(key) || at.IsZero() {
				continue
			}
			c.wait = max(c.wait, at.Sub(m.at))
			if at.Sub(m.at) > patient {
				c.fault("P9: %s/%d waited %v", key, m.Revision, at.Sub(m.at))
			}
		}
	}
}
