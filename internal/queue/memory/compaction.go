package memory

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/store"
)

// Compact is store.Store.Compact, as PostgreSQL does it.
func (d *Database) Compact(
	_ context.Context, relay string, lanes []store.Lane, starts []store.Start, perLane int,
	limit time.Duration,
) (store.Compacted, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all store.Compacted
	for _, start := range starts {
		left := start
		if limit > 0 && d.owns(relay, lanes, start.Lane) {
			seen, dropped, before := d.compact(d.seen(start, perLane))
			all.Seen, all.Dropped = all.Seen+seen, all.Dropped+dropped
			left.After = max(left.After, before)
		}
		all.Left = append(all.Left, left)
	}
	return all, nil
}

// seen are the first n rows behind a start.
func (d *Database) seen(start store.Start, n int) (rows []*row) {
	for _, r := range d.after(start) {
		if r.by == nil && len(rows) < n {
			rows = append(rows, r)
		}
	}
	return rows
}

// ofKey is what a compaction sees of a key.
type ofKey struct {
	rows        []*row
	replaceable bool
	after       *int64 // of the oldest
}

// compact drops all but the newest of each key where nothing forbids it. Up to before nothing is
// left of what it saw; 0 says nothing.
func (d *Database) compact(rows []*row) (seen, dropped int, before int64) {
	keys, order := map[store.Key]*ofKey{}, []*ofKey{}
	stays := func(r *row) {
		if before == 0 || r.ID-1 < before {
			before = r.ID - 1
		}
	}
	for _, r := range rows {
		if r.Replaceable() {
			seen++
		}
		if r.Signal == "SYNC" {
			stays(r)
			continue
		}
		k := keys[keyOf(&r.Message)]
		if k == nil {
			k = &ofKey{replaceable: true, after: r.After}
			keys[keyOf(&r.Message)], order = k, append(order, k)
		}
		k.rows, k.replaceable = append(k.rows, r), k.replaceable && r.Replaceable()
	}
	complete := true
	for _, k := range order {
		if len(k.rows) < 2 || !k.replaceable {
			stays(k.rows[0])
			continue
		}
		last := len(k.rows) - 1
		for _, r := range k.rows[:last] {
			if r.locked {
				complete = false
				continue
			}
			d.remove(r)
			dropped++
		}
		k.rows[last].After = k.after
		stays(k.rows[last])
	}
	if !complete {
		before = 0
	}
	return seen, dropped, before
}
