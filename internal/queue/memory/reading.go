package memory

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// maxClaimBytes is that of package queue.
const maxClaimBytes = 4 << 20

// Glance is queue.Queue.Glance.
func (q *Queue) Glance(
	_ context.Context, starts []queue.Start, perLane int, except queue.Except,
) (claimed []*queue.Claimed, unread []int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.elsewhere() {
		return nil, nil, nil
	}
	claimed, unread = q.read(starts, perLane, except)
	return claimed, unread, nil
}

// Claim is queue.Queue.Claim.
func (q *Queue) Claim(
	_ context.Context, starts []queue.Start, perLane int, except queue.Except,
) (claimed []*queue.Claimed, unread []int, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.requireServer(); err != nil {
		return nil, nil, fmt.Errorf("claim messages: %w", err)
	}
	claimed, unread = q.read(starts, perLane, except)
	return claimed, unread, nil
}

func (d *Database) read(
	starts []queue.Start, perLane int, except queue.Except,
) (claimed []*queue.Claimed, unread []int) {
	c := d.newClaim(except)
	for i, start := range starts {
		for left, rows := perLane, d.after(start); left > 0 && len(rows) > 0; rows = rows[1:] {
			m := c.claim(rows[0])
			if m == nil {
				continue
			}
			left--
			claimed = append(claimed, m)
			if c.size += len(m.Data) + len(m.Previous) + len(m.Meta); c.size > maxClaimBytes {
				for _, rest := range starts[i:] {
					unread = append(unread, rest.Lane)
				}
				return claimed, unread
			}
		}
	}
	return claimed, nil
}

// after returns the rows behind a start.
func (d *Database) after(start queue.Start) []*row {
	rows := d.rows[start.Lane]
	i, found := slices.BinarySearchFunc(rows, start.After, compareID)
	if found {
		i++
	}
	return rows[i:]
}

// claim is one reading. One time counts for all of it, or the later rows of a key could leave
// before the others.
type claim struct {
	d    *Database
	now  time.Time
	ids  map[int64]bool
	keys map[queue.Key]bool
	size int
}

func (d *Database) newClaim(except queue.Except) *claim {
	c := &claim{d: d, now: time.Now(), ids: map[int64]bool{}, keys: map[queue.Key]bool{}}
	for _, id := range except.IDs {
		c.ids[id] = true
	}
	for _, key := range except.Keys {
		c.keys[key] = true
	}
	return c
}

// claim returns the message of a row, nil if it is none to be read now.
func (c *claim) claim(r *row) *queue.Claimed {
	key := keyOf(&r.Message)
	if r.by != nil || c.ids[r.ID] || c.keys[key] {
		return nil
	}
	m := &queue.Claimed{Message: r.Message}
	m.Follows = false // no column holds it
	wait, failed := c.d.retries[key]
	if !failed {
		return m
	}
	replaces := r.ID > wait.message
	m.Failed, m.Waiting = true, wait.next.After(c.now)
	switch {
	case m.Waiting && (!replaces || !r.Replaceable()):
		return nil
	case !m.Waiting && !replaces:
		m.Attempts = wait.attempts
	}
	return m
}

// Writers is queue.Queue.Writers.
func (d *Database) Writers(context.Context) (w queue.Writers, ok bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	w = queue.Writers{Open: map[string]bool{}}
	if d.drawn > forHand {
		w.Drawn = d.drawn
	}
	for tx := range d.first {
		w.Open[strconv.FormatInt(tx.rows[0].ID, 10)] = true
	}
	return w, true, nil
}

// WaitingLanes is queue.Queue.WaitingLanes.
func (d *Database) WaitingLanes(context.Context) (waiting func(lane int) bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lanes := map[int]bool{}
	for key := range d.retries {
		lanes[d.laneOf(key)] = true
	}
	return func(lane int) bool { return lanes[lane] }, nil
}

// MakeDue is queue.Queue.MakeDue.
func (d *Database) MakeDue(_ context.Context, keys []queue.Key) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	for _, key := range keys {
		if r, waits := d.retries[key]; waits {
			r.next = now
			d.retries[key] = r
		}
	}
	return nil
}

// postpone makes a key wait.
func (d *Database) postpone(f queue.Failure) {
	r := retry{attempts: f.Attempts, next: time.Now().Add(f.Wait), message: f.ID}
	if !f.Spared {
		r.attempts++
	}
	if !f.Replaceable() {
		r.message = math.MaxInt64 // nothing is newer
	}
	d.retries[keyOf(&f.Message)] = r
}
