package memory

import (
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// ErrLost says that the database went back while the transaction was open.
var ErrLost = errors.New("the database went back: the transaction is lost")

// history is what the database was before it went back.
type history struct {
	restores int // how often it did
	written  map[int64]origin
	// repeat are rows that were lost. Where the same is written again, its time is the same.
	repeat map[int64]origin
}

func newHistory() history {
	return history{written: map[int64]origin{}, repeat: map[int64]origin{}}
}

// origin is how a row was written first.
type origin struct {
	key      queue.Key
	revision int64
	created  time.Time
	lane     queue.Lane // as it was owned then
}

// BackUp copies what was committed, and returns a function that makes the database go back to it.
// Transactions that are open then are lost.
func (d *Database) BackUp() (restore func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	saved, drawn := d.clone(), d.drawn
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.tables, d.drawn = saved.clone(), drawn
		d.first = map[*Tx]struct{}{}
		d.restores++
	}
}

// FailOver makes another server answer, as when a standby is promoted or a backup is put back.
func (d *Database) FailOver() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server++
}

// TurnBackClock makes the clock that of the backup, as it is when a whole machine is put back: what
// is written again, under the identity and the revision that it had before, has its time, too.
//
// Not so where the lane is owned now as it was then: there the time is all that tells one from the
// other.
func (d *Database) TurnBackClock() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, o := range d.written {
		if id > d.drawn && d.lanes[o.lane.Lane].Lane != o.lane {
			d.repeat[id] = o
		}
	}
}

// Incarnations lists all that were drawn, also those that are forgotten.
func (d *Database) Incarnations() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.incarnations)
}

// clone copies what was committed.
func (t *tables) clone() tables {
	copied := *t
	copied.lanes, copied.relays = slices.Clone(t.lanes), maps.Clone(t.relays)
	copied.retries, copied.dead = maps.Clone(t.retries), maps.Clone(t.dead)
	copied.rows, copied.revisions = make([][]*row, len(t.rows)), map[queue.Key]revision{}
	for i := range t.rows {
		for _, r := range t.rows[i] {
			if r.by == nil {
				copied.rows[i] = append(copied.rows[i], &row{Message: r.Message})
			}
		}
	}
	for key, r := range t.revisions {
		if r.lockBy != nil {
			r = revision{last: r.last - 1}
		}
		if r.last >= 0 {
			copied.revisions[key] = r
		}
	}
	return copied
}

// writes notes how a row is written, and gives it the time that it had if it was before.
func (d *Database) writes(m *queue.Message) {
	key := keyOf(m)
	if o, lost := d.repeat[m.ID]; lost && o.key == key && o.revision == m.Revision {
		m.Created = o.created
	}
	d.written[m.ID] = origin{key, m.Revision, m.Created, d.lanes[m.Lane].Lane}
}
