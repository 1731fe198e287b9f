package replica

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// stuck groups by error what was not applied of a model: the largest groups.
func (r inspected) stuck(
	ctx context.Context, c mirrored.Condition,
) (groups []mirrored.StuckGroup, err error) {
	if r.tables == nil || c.Waiting+c.DeadLetters == 0 {
		return nil, nil
	}
	all, err := r.tables.StuckOf(ctx, r.config.Queue, c.Model, "", applied.StuckRead)
	if err != nil {
		return nil, fmt.Errorf("replica: %w", err)
	}
	for _, g := range applied.GroupStuck(all) {
		groups = append(groups, mirrored.StuckGroup(g))
	}
	return groups, nil
}

const (
	// entryStuck is how many messages of one key are told of.
	entryStuck = 5
	// entryBodies bounds what they hold, all together: it stands in one column of the master.
	entryBodies = 8 << 10
)

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
	stuck, err := r.tables.StuckOf(ctx, r.config.Queue, model, key, entryStuck)
	if err != nil {
		return e, fmt.Errorf("replica: %w", err)
	}
	left := entryBodies
	for _, s := range stuck {
		one := mirrored.Stuck{
			Key: s.Key.Key, Dead: s.Dead, Revision: s.Revision, Error: applied.ShortError(s.Error),
			Since: s.Since,
		}
		if len(s.Body) <= left && json.Valid(s.Body) {
			one.Body, left = s.Body, left-len(s.Body)
		}
		e.Stuck = append(e.Stuck, one)
	}
	return e, nil
}
