package replica

import (
	"regexp"
	"sync"
	"sync/atomic"

	"github.com/cqrsync/cqrsync/envelope"
)

// origin is what this process knows of an incarnation.
type origin struct {
	model, incarnation string
	clock              masterClock

	heard atomic.Bool  // since it was noted last
	first atomic.Int64 // when this process heard of it first, in nanoseconds here; 0 for never
	// livesAfter is a time of the master's clock, in microseconds, when a later incarnation was
	// there already; 0 while there is none. What it writes later shows that it goes on beside that
	// one.
	livesAfter         atomic.Int64
	returns, overtaken atomic.Int64 // since they were noted last

	saidReturns atomic.Bool // in the log
}

// origins are the incarnations that messages came from.
type origins struct {
	mu    sync.RWMutex
	known map[lineage]*origin
	news  chan struct{} // something is to be noted now
}

// lineage names an origin.
type lineage struct{ model, incarnation string }

func (o *origins) init() {
	o.known = make(map[lineage]*origin)
	o.news = make(chan struct{}, 1)
}

// incarnations are short. What is not, no relay of ours has written.
var incarnations = regexp.MustCompile(`^[0-9A-Za-z-]{1,64}$`)

// maxOrigins bounds what is known.
const maxOrigins = 10_000

// of returns the origin of a message; isNew says that nothing came from it before.
func (o *origins) of(model, incarnation string) (from *origin, isNew bool) {
	key := lineage{model, incarnation}
	o.mu.RLock()
	from = o.known[key]
	o.mu.RUnlock()
	if from != nil {
		return from, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if !incarnations.MatchString(incarnation) || len(o.known) >= maxOrigins {
		key.incarnation = ""
	}
	if from = o.known[key]; from != nil {
		return from, false
	}
	from = &origin{model: model, incarnation: key.incarnation}
	o.known[key] = from
	return from, true
}

func (o *origins) all() []*origin {
	o.mu.RLock()
	defer o.mu.RUnlock()
	all := make([]*origin, 0, len(o.known))
	for _, from := range o.known {
		all = append(all, from)
	}
	return all
}

// hurry has what is new noted now.
func (o *origins) hurry() {
	select {
	case o.news <- struct{}{}:
	default:
	}
}

// hears notes where a message that a broker delivered came from.
func (e *engine) hears(m *envelope.Message) {
	if m == nil || e.models[m.Model] == nil {
		return
	}
	from, isNew := e.origins.of(m.Model, m.Incarnation)
	from.clock.sees(m.Updated, elapsed())
	if !from.heard.Load() {
		from.first.CompareAndSwap(0, int64(elapsed()))
		from.heard.Store(true)
	}
	if after := from.livesAfter.Load(); after != 0 && m.Updated.UnixMicro() > after &&
		m.Signal != envelope.Sync {
		if from.returns.Add(1) == 1 {
			isNew = true
		}
	}
	if isNew {
		e.origins.hurry()
	}
}

// isExpired says that the master no longer vouches for the state, by its own clock. A delete has
// none and is always true.
func (e *engine) isExpired(m *envelope.Message) bool {
	if m.Signal == envelope.Delete || m.Expires.IsZero() {
		return false
	}
	from, _ := e.origins.of(m.Model, m.Incarnation)
	return m.Expires.Before(from.clock.at(elapsed()))
}

// overtake counts a message that is stale by its revision, but later than what the replica has.
func (e *engine) overtake(d *delivery) {
	m := d.message
	e.counts.overtaken.Add(1)
	from, _ := e.origins.of(m.Model, m.Incarnation)
	from.overtaken.Add(1)
	if e.overtaken.first(m.Model) {
		what := "the master went back"
		if m.Incarnation == "" {
			what += ", or a django-cqrs master created the key again and the message of that is " +
				"missing"
		}
		e.log.Warn(what+
			": it makes changes under revisions that are known here, and they are refused; "+
			"compare with relay diff, or send everything with relay sync --force",
			d.attrs("incarnation", m.Incarnation)...)
	}
	e.origins.hurry()
}

// onceEach remembers models of which something is in the log.
type onceEach struct{ seen sync.Map }

func (o *onceEach) first(model string) bool {
	_, seen := o.seen.LoadOrStore(model, true)
	return !seen
}
