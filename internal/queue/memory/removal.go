package memory

import (
	"context"
	"slices"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// Finish is queue.Queue.Finish.
func (q *Queue) Finish(
	ctx context.Context, relay string, lanes []queue.Lane, done queue.Outcome,
) error {
	return q.FinishFree(ctx, relay, lanes, done) // nobody is waited for
}

// FinishFree is queue.Queue.FinishFree.
func (q *Queue) FinishFree(
	_ context.Context, relay string, lanes []queue.Lane, done queue.Outcome,
) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	removed := slices.Concat(done.Sent, claimedOf(done.Dead))
	stays := func(m *queue.Claimed) bool { return !q.removable(relay, lanes, m) }
	if err := q.requireServer(); err != nil && slices.ContainsFunc(removed, stays) {
		return err
	}
	held := map[queue.Key]bool{}
	for _, m := range removed {
		if r := q.find(m); r != nil && r.locked {
			held[keyOf(&m.Message)] = true
		}
	}
	free, left := divide(done, held)
	for _, m := range free.Sent {
		q.removeOwned(relay, lanes, m)
		if m.Failed {
			delete(q.retries, keyOf(&m.Message))
		}
	}
	for _, f := range free.Dead {
		if q.removeOwned(relay, lanes, f.Claimed) {
			q.dead[f.ID] = f
		}
		delete(q.retries, keyOf(&f.Message))
	}
	for _, f := range free.Failed {
		q.postpone(f)
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
func (q *Queue) removeOwned(relay string, lanes []queue.Lane, m *queue.Claimed) bool {
	if !q.removable(relay, lanes, m) {
		return false
	}
	q.remove(q.find(m))
	return true
}

func (q *Queue) removable(relay string, lanes []queue.Lane, m *queue.Claimed) bool {
	return q.find(m) != nil && q.owns(relay, lanes, m.Lane)
}

// Supersede is queue.Queue.Supersede.
func (q *Queue) Supersede(
	_ context.Context, relay string, lanes []queue.Lane, list []queue.Superseding,
) ([]queue.Superseded, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	fates := make([]queue.Superseded, len(list))
	for i, m := range list {
		fates[i] = q.supersede(relay, lanes, m)
	}
	return fates, nil
}

func (q *Queue) supersede(relay string, lanes []queue.Lane, m queue.Superseding) queue.Superseded {
	newer := q.find(m.Claimed)
	if newer == nil || newer.locked || !q.owns(relay, lanes, m.Lane) {
		return queue.Missing
	}
	newer.After = m.After
	fate := queue.Gone
	for _, old := range m.Older {
		switch r := q.find(old); {
		case r == nil && q.occupied(old):
			return queue.Missing
		case r != nil && r.locked:
			fate = queue.Standing
		}
	}
	if fate != queue.Gone {
		return fate
	}
	for _, old := range m.Older {
		if r := q.find(old); r != nil {
			q.remove(r)
		}
	}
	return queue.Gone
}

// occupied says that there is a row with the identity of a message, be it another one.
func (d *Database) occupied(m *queue.Claimed) bool {
	_, found := slices.BinarySearchFunc(d.rows[m.Lane], m.ID, compareID)
	return found
}
