package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// What is said of messages that were not applied is bounded: it travels with each report.
const (
	stuckRead   = 500 // are looked at, of those that wait and of those that were given up
	stuckGroups = 5
	stuckKeys   = 5
	stuckError  = 300 // runes
)

// stuck groups by error what was not applied of a model: the largest groups.
func (r inspected) stuck(
	ctx context.Context, c mirrored.Condition,
) (groups []mirrored.StuckGroup, err error) {
	if r.tables == nil || c.Waiting+c.DeadLetters == 0 {
		return nil, nil
	}
	all, err := r.tables.StuckOf(ctx, r.config.Queue, c.Model, "", stuckRead)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	slices.SortStableFunc(all, func(a, b applied.Stuck) int { return a.Since.Compare(b.Since) })
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
			groups = append(groups, mirrored.StuckGroup{Dead: s.Dead, First: s.Since})
		}
		g := &groups[i]
		g.Count++
		g.Error, g.Last = shortened(s.Error), s.Since
		if len(g.Keys) < stuckKeys && !slices.Contains(g.Keys, s.Key.Key) {
			g.Keys = append(g.Keys, s.Key.Key)
		}
	}
	slices.SortStableFunc(groups, func(a, b mirrored.StuckGroup) int {
		return cmp.Compare(b.Count, a.Count)
	})
	return groups[:min(len(groups), stuckGroups)], nil
}

func shortened(text string) string {
	if runes := []rune(text); len(runes) > stuckError {
		return string(runes[:stuckError-1]) + "…"
	}
	return text
}

// Entry returns what is here of one key, as ledgers spell it.
func (r inspected) Entry(ctx context.Context, model, key string) (e mirrored.Entry, err error) {
	if r.tables == nil {
		return e, errors.New("replica: it has no database, so nobody knows what it has")
	}
	entry, known, err := r.tables.EntryOf(ctx, applied.Key{Model: model, Key: key})
	if err != nil {
		return e, fmt.Errorf("replica: %w", err)
	}
	e = mirrored.Entry{
		Known: known, Revision: entry.Revision, Deleted: entry.Deleted,
		Updated: entry.Updated, Applied: entry.Applied,
	}
	stuck, err := r.tables.StuckOf(ctx, r.config.Queue, model, key, stuckGroups)
	if err != nil {
		return e, fmt.Errorf("replica: %w", err)
	}
	for _, s := range stuck {
		e.Stuck = append(e.Stuck, mirrored.Stuck{
			Key: s.Key.Key, Dead: s.Dead, Revision: s.Revision, Error: shortened(s.Error),
			Since: s.Since,
		})
	}
	return e, nil
}
