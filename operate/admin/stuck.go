package admin

import (
	"context"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/registry"
)

// StuckGroup is what does not leave the outbox for one reason. Its names in JSON are never changed.
type StuckGroup struct {
	// Dead says that the messages were given up; else they are tried again by themselves.
	Dead bool `json:"dead"`
	// Error is what the latest of them failed with. The others failed alike: with the same words,
	// and perhaps other numbers, keys or names.
	Error string `json:"error"`
	// Count is how many there are, More that there are others which were not looked at.
	Count int  `json:"count"`
	More  bool `json:"more,omitempty"`
	// First and Last are when the first and the latest of them began to wait, or were given up.
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
	// Keys are some of them, oldest first.
	Keys []StuckKey `json:"keys"`

	all []StuckKey // as many as were looked at
}

// StuckKey is the key of a message that does not leave.
type StuckKey struct {
	// Model and Key name it. Attempts to send it failed, or it was given up, Since then.
	Model    string    `json:"model"`
	Key      string    `json:"key"`
	Attempts int       `json:"attempts"`
	Since    time.Time `json:"since"`
	// ID is that of a dead letter.
	ID int64 `json:"id,omitempty"`
}

const (
	// stuckRead bounds how much is looked at, of either kind.
	stuckRead = 1000
	// stuckKeys is how many keys a group names.
	stuckKeys = 20
)

// Stuck returns what does not leave the outbox, grouped by error, the oldest group first: what is
// tried again before what was given up. It looks at 1,000 of either.
func (m *Master) Stuck(ctx context.Context) ([]StuckGroup, error) {
	waiting, dead, err := m.queue.Stuck(ctx, stuckRead+1)
	if err != nil {
		return nil, err
	}
	return append(group(waiting, false), group(dead, true)...), nil
}

// Alike returns what errors of one cause have in common: their words.
func Alike(err string) string { return db.Alike(err) }

func group(all []queue.Stuck, dead bool) (groups []StuckGroup) {
	more := len(all) > stuckRead
	all = all[:min(len(all), stuckRead)]
	slices.SortStableFunc(all, func(a, b queue.Stuck) int { return a.Since.Compare(b.Since) })
	index := map[string]int{}
	for _, s := range all {
		name := db.Alike(s.Error)
		i, is := index[name]
		if !is {
			i = len(groups)
			index[name] = i
			groups = append(groups, StuckGroup{Dead: dead, First: s.Since, More: more})
		}
		g := &groups[i]
		g.Count++
		g.Error, g.Last = s.Error, s.Since
		g.all = append(g.all, StuckKey{s.Model, s.Key.Key, s.Attempts, s.Since, s.ID})
		g.Keys = g.all[:min(len(g.all), stuckKeys)]
	}
	return groups
}

// Outage is what a process says that it waits for. Its names in JSON are never changed.
type Outage struct {
	// Source is who says so; What is broker, or what else it needs, Since when that has been away,
	// and Error why the last try failed.
	Source string    `json:"source"`
	What   string    `json:"what"`
	Since  time.Time `json:"since"`
	Error  string    `json:"error"`
}

// SaidWithin is how long an outage counts that its source does not repeat.
const SaidWithin = 20 * time.Second

// SayOutages notes what source waits for, in place of what it said before, so that everybody is
// told why nothing moves; none ends it. Repeat it at least as often as SaidWithin.
func (m *Master) SayOutages(ctx context.Context, source string, outages []Outage) error {
	all := make([]registry.Trouble, len(outages))
	for i, o := range outages {
		all[i] = registry.Trouble{What: o.What, Since: o.Since, Error: o.Error}
	}
	return m.registry.SayTroubles(ctx, source, all)
}

// Outages returns what processes said within SaidWithin that they wait for, oldest first.
func (m *Master) Outages(ctx context.Context) ([]Outage, error) {
	said, err := m.registry.Troubles(ctx, SaidWithin)
	all := make([]Outage, len(said))
	for i, t := range said {
		all[i] = Outage{t.Source, t.What, t.Since, t.Error}
	}
	return all, err
}

// Now is the time by the clock of the master's database.
func (m *Master) Now(ctx context.Context) (time.Time, error) { return m.registry.Now(ctx) }
