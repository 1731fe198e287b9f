package memory

import (
	"context"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// Compact is queue.Queue.Compact, as PostgreSQL does it: where others hold a row that it would
// change, it is given up.
func (q *Queue) Compact(
	_ context.Context, relay string, lanes []queue.Lane, starts []queue.Start, perLane int,
	limit time.Duration,
) (queue.Compacted, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	all, found := queue.Compacted{}, make([]compaction, len(starts))
	for i, start := range starts {
		if limit <= 0 || !q.owns(relay, lanes, start.Lane) {
			continue
		}
		found[i] = compactionOf(q.seen(start, perLane))
		if found[i].locked() {
			return queue.Compacted{Left: starts}, nil
		}
	}
	for i, start := range starts {
		c := found[i]
		all.Seen += c.seen
		all.Dropped += q.drop(c)
		all.Left = append(all.Left, queue.Start{Lane: start.Lane,
			After: max(start.After, c.before)})
	}
	return all, nil
}

// seen are the first n rows behind a start.
func (d *Database) seen(start queue.Start, n int) (rows []*row) {
	for _, r := range d.after(start) {
		if r.by == nil && len(rows) < n {
			rows = append(rows, r)
		}
	}
	return rows
}

// compaction is what is to be done in one lane.
type compaction struct {
	seen   int      // replaceable messages
	groups [][]*row // of one key each, of which the newest stays
	before int64    // up to here nothing is left; 0 says nothing
}

// compactionOf finds the keys of which all rows may be replaced.
func compactionOf(rows []*row) (c compaction) {
	keys, order := map[queue.Key][]*row{}, []queue.Key{}
	stays := func(r *row) {
		if c.before == 0 || r.ID-1 < c.before {
			c.before = r.ID - 1
		}
	}
	for _, r := range rows {
		if r.Replaceable() {
			c.seen++
		}
		if r.Signal == "SYNC" {
			stays(r)
			continue
		}
		key := keyOf(&r.Message)
		if len(keys[key]) == 0 {
			order = append(order, key)
		}
		keys[key] = append(keys[key], r)
	}
	for _, key := range order {
		group := keys[key]
		kept := slices.ContainsFunc(group, func(r *row) bool { return !r.Replaceable() })
		if kept || len(group) < 2 {
			stays(group[0])
			continue
		}
		stays(group[len(group)-1])
		c.groups = append(c.groups, group)
	}
	return c
}

func (c compaction) locked() bool {
	return slices.ContainsFunc(slices.Concat(c.groups...), func(r *row) bool { return r.locked })
}

func (d *Database) drop(c compaction) (dropped int) {
	for _, group := range c.groups {
		last := len(group) - 1
		group[last].After = group[0].After
		for _, r := range group[:last] {
			d.remove(r)
			dropped++
		}
	}
	return dropped
}
