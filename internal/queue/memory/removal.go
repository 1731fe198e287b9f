package memory

import (
	"context"
	"slices"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// Finish is queue.Queue.Finish.
func (d *Database) Finish(
	ctx context.Context, relay string, lanes []queue.Lane, done queue.Outcome,
) error {
	return d.FinishFree(ctx, relay, lanes, done) // nobody is waited for
}

// FinishFree is queue.Queue.FinishFree.
func (d *Database) FinishFree(
	_ context.Context, relay string, lanes []queue.Lane, done queue.Outcome,
) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := map[queue.Key]bool{}
	for _, m := range slices.Concat(done.Sent, claimedOf(done.Dead)) {
		if r := d.find(m); r != nil && r.locked {
			held[keyOf(&m.Message)] = true
		}
	}
	free, left := divide(done, held)
	for _, m := range free.Sent {
		d.removeOwned(relay, lanes, m)
		if m.Failed {
			delete(d.retries, keyOf(&m.Message))
		}
	}
	for _, f := range free.Dead {
		if d.removeOwned(relay, lanes, f.Claimed) {
			d.dead[f.ID] = f
		}
		delete(d.retries, keyOf(&f.Message))
	}
	for _, f := range free.Failed {
		d.postpone(f)
	}
	if len(held) == 0 {
		return nil
	}
	return queue.NewUnfinishedError(left)
}

func claimedOf(failures []queue.Failure) (all []*queue.Claimed) {
	for _, f := range failures {
		all = append(all, f.Claimed)
	}
	return all
}

// divide takes what is of a key that is held out of an outcome.
func divide(done queue.Outcome, held map[queue.Key]bool) (free, left queue.Outcome) {
	for _, m := range done.Sent {
		if held[keyOf(&m.Message)] {
			left.Sent = append(left.Sent, m)
		} else {
			free.Sent = append(free.Sent, m)
		}
	}
	failures := func(all []queue.Failure, free, left *[]queue.Failure) {
		for _, f := range all {
			if held[keyOf(&f.Message)] {
				*left = append(*left, f)
			} else {
				*free = append(*free, f)
			}
		}
	}
	failures(done.Failed, &free.Failed, &left.Failed)
	failures(done.Dead, &free.Dead, &left.Dead)
	return free, left
}

// removeOwned removes a row that is what it was, of a lane that is the relay's.
func (d *Database) removeOwned(relay string, lanes []queue.Lane, m *queue.Claimed) bool {
	r := d.find(m)
	if r == nil || !d.owns(relay, lanes, m.Lane) {
		return false
	}
	d.remove(r)
	return true
}

// Supersede is queue.Queue.Supersede.
func (d *Database) Supersede(
	_ context.Context, relay string, lanes []queue.Lane, list []queue.Superseding,
) ([]queue.Superseded, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fates := make([]queue.Superseded, len(list))
	for i, m := range list {
		fates[i] = d.supersede(relay, lanes, m)
	}
	return fates, nil
}

func (d *Database) supersede(relay string, lanes []queue.Lane, m queue.Superseding) queue.Superseded {
	newer := d.find(m.Claimed)
	if newer == nil || newer.locked || !d.owns(relay, lanes, m.Lane) {
		return queue.Missing
	}
	newer.After = m.After
	for _, old := range m.Older {
		if r := d.find(old); d.occupied(old) && (r == nil || r.locked) {
			return queue.Standing
		}
	}
	for _, old := range m.Older {
		if r := d.find(old); r != nil {
			d.remove(r)
		}
	}
	return queue.Gone
}

// occupied says that there is a row with the identity of a message, be it another one.
func (d *Database) occupied(m *queue.Claimed) bool {
	_, found := slices.BinarySearchFunc(d.rows[m.Lane], m.ID, compareID)
	return found
}
