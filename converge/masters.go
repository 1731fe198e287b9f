package converge

import (
	"slices"
	"sync"
	"time"
)

// masters are those that have been heard. It is safe for concurrent use.
type masters struct {
	mu    sync.Mutex
	heard []heard
	fresh chan struct{}
}

// heard is the newest heartbeat of a master.
type heard struct {
	heartbeat

	at time.Time
}

// believed is how long a master counts as there that sends no heartbeats.
const believed = 5 * time.Minute

func (m *masters) hear(beat heartbeat, now time.Time) {
	slices.Sort(beat.Models)
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.heard, func(h heard) bool { return slices.Equal(h.Models, beat.Models) })
	if i < 0 {
		// Another list of models: of a new master, or of one that has changed.
		m.heard = slices.DeleteFunc(m.heard, func(h heard) bool {
			return slices.ContainsFunc(h.Models, func(id string) bool {
				return slices.Contains(beat.Models, id)
			})
		})
		m.heard = append(m.heard, heard{beat, now})
		m.signal()
		return
	}
	if beat.Sent.After(m.heard[i].Sent) {
		m.heard[i] = heard{beat, now}
	}
}

// through is the time up to which all is here that was committed at the master of a
// model; zero where nobody has said.
func (m *masters) through(model string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, h := range m.heard {
		if slices.Contains(h.Models, model) {
			return h.Through
		}
	}
	return time.Time{}
}

func (m *masters) signal() {
	if m.fresh == nil {
		m.fresh = make(chan struct{}, 1)
	}
	select {
	case m.fresh <- struct{}{}:
	default:
	}
}

// news receives when a master was heard for the first time.
func (m *masters) news() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fresh == nil {
		m.fresh = make(chan struct{}, 1)
	}
	return m.fresh
}

// groups puts models together that one master answers for; each of the others stands alone.
func (m *masters) groups(models []string, now time.Time) (groups []group) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heard = slices.DeleteFunc(m.heard, func(h heard) bool { return now.Sub(h.at) > believed })
	rest := slices.Clone(models)
	for _, h := range m.heard {
		g := group{echo: &echo{Sent: h.Sent, Through: h.Through, Held: now.Sub(h.at).Seconds()}}
		rest = slices.DeleteFunc(rest, func(id string) bool {
			is := slices.Contains(h.Models, id)
			if is {
				g.models = append(g.models, id)
			}
			return is
		})
		if len(g.models) > 0 {
			groups = append(groups, g)
		}
	}
	for _, id := range rest {
		groups = append(groups, group{models: []string{id}})
	}
	return groups
}

// group are models that one master answers for.
type group struct {
	models []string
	echo   *echo
}
