package applied

import (
	"cmp"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// What is said of messages that were not applied is bounded: it travels with each report.
const (
	// StuckRead is how many are looked at, of those that wait and of those that were given up.
	StuckRead = 500

	stuckGroups = 5
	stuckKeys   = 5
	stuckError  = 300 // runes
)

// StuckGroup is what was not applied for one reason.
type StuckGroup struct {
	// Dead says that the messages were given up; else they wait.
	Dead bool
	// Error is the latest one's, Count how many there are, and Keys are some of theirs.
	Error       string
	Count       int
	First, Last time.Time
	Keys        []string
}

// GroupStuck groups messages by error, and returns the largest groups.
func GroupStuck(all []Stuck) (groups []StuckGroup) {
	all = slices.SortedStableFunc(slices.Values(all), func(a, b Stuck) int {
		return a.Since.Compare(b.Since)
	})
	type cause struct {
		dead bool
		text string
	}
	index := map[cause]int{}
	for _, s := range all {
		of := cause{s.Dead, db.Alike(s.Error)}
		i, is := index[of]
		if !is {
			i = len(groups)
			index[of] = i
			groups = append(groups, StuckGroup{Dead: s.Dead, First: s.Since})
		}
		g := &groups[i]
		g.Count++
		g.Error, g.Last = ShortError(s.Error), s.Since
		if len(g.Keys) < stuckKeys && !slices.Contains(g.Keys, s.Key.Key) {
			g.Keys = append(g.Keys, s.Key.Key)
		}
	}
	slices.SortStableFunc(groups, func(a, b StuckGroup) int { return cmp.Compare(b.Count, a.Count) })
	return groups[:min(len(groups), stuckGroups)]
}

// ShortError returns an error as it is said where many are.
func ShortError(text string) string {
	if runes := []rune(text); len(runes) > stuckError {
		return string(runes[:stuckError-1]) + "…"
	}
	return text
}
