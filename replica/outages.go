package replica

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// What is in trouble, in repeated; subscribing is followed by the topics.
const (
	applying    = "apply"
	subscribing = "subscription "
)

// Outage is what a replica waits for, and tries again until it is there.
type Outage struct {
	// What is broker or database.
	What string
	// Since is when it was away for the first time.
	Since time.Time
	// Err is why a try failed.
	Err error
}

// Outages returns what the replica waits for now, the oldest first. It may be called at any time.
func (r *Replica) Outages() []Outage {
	var all []Outage
	for what, said := range r.trouble.now() {
		switch {
		case what == applying:
			all = append(all, Outage{"database", said.since, said.err})
		case strings.HasPrefix(what, subscribing):
			all = append(all, Outage{"broker", said.since, said.err})
		}
	}
	slices.SortFunc(all, func(a, b Outage) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.What, b.What))
	})
	return all
}
