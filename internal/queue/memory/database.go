// Package memory is an outbox in memory: what a relay needs of a database, with the leases, fences
// and late commits that a real one has. Whole relays run over it in virtual time.
//
// What it does is what package queue does in SQL; both pass the same suite. It has no clock of its
// own, so leases never end later than they can. It goes back and fails over when it is told to.
//
// Tests only.
package memory

import (
	"slices"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// Database is what survives relays: the tables. Its methods may be called at the same time.
type Database struct {
	mu    sync.Mutex
	drawn int64 // the last identity
	first map[*Tx]struct{}
	tables

	server       int      // which one answers, by number
	incarnations []string // all that were drawn
	history
}

// tables are what a backup has.
type tables struct {
	lanes     []lane // by number
	relays    map[string]lease
	rows      [][]*row // of each lane, by identity
	retries   map[queue.Key]retry
	dead      map[int64]queue.Failure
	revisions map[queue.Key]revision

	incarnation queue.Incarnation
	place       int   // the server on which it was drawn
	byHand      int64 // the last identity that was put by hand
}

type lane struct {
	queue.Lane
	owner   string // empty for none
	expires time.Time
	beat    int64
}

type lease struct {
	expires time.Time
}

// row is a message that was appended. Nobody sees it before its transaction commits.
type row struct {
	queue.Message
	by     *Tx // nil once committed
	locked bool
}

type retry struct {
	attempts int
	next     time.Time
	message  int64 // the identity of the one that failed; a newer one may replace it
}

// forHand are the identities below all that are drawn.
const forHand = 1000

// New makes one with so many lanes.
func New(lanes int) *Database {
	d := &Database{drawn: forHand, first: map[*Tx]struct{}{}, history: newHistory(), tables: tables{
		lanes: make([]lane, lanes), rows: make([][]*row, lanes), relays: map[string]lease{},
		retries: map[queue.Key]retry{}, dead: map[int64]queue.Failure{},
		revisions: map[queue.Key]revision{},
	}}
	d.draw("the tables were made")
	for i := range d.lanes {
		d.lanes[i].Lane.Lane = i
	}
	return d
}

// Hold locks rows, as somebody does who changes them, and returns a function that lets them go.
func (d *Database) Hold(ids ...int64) (release func()) {
	set := func(locked bool) {
		d.mu.Lock()
		defer d.mu.Unlock()
		for _, rows := range d.rows {
			for _, r := range rows {
				if slices.Contains(ids, r.ID) {
					r.locked = locked
				}
			}
		}
	}
	set(true)
	return func() { set(false) }
}

// find returns the row that a message was read from; another one may have its identity after a
// restore.
func (d *Database) find(m *queue.Claimed) *row {
	i, found := slices.BinarySearchFunc(d.rows[m.Lane], m.ID, compareID)
	if !found {
		return nil
	}
	r := d.rows[m.Lane][i]
	if r.Model != m.Model || r.Key != m.Key || r.Revision != m.Revision ||
		!r.Created.Equal(m.Created) {
		return nil
	}
	return r
}

func compareID(r *row, id int64) int {
	switch {
	case r.ID < id:
		return -1
	case r.ID > id:
		return 1
	}
	return 0
}

func (d *Database) remove(gone *row) {
	rows := d.rows[gone.Lane]
	i, _ := slices.BinarySearchFunc(rows, gone.ID, compareID)
	d.rows[gone.Lane] = slices.Delete(rows, i, i+1)
}

func keyOf(m *queue.Message) queue.Key { return queue.Key{Model: m.Model, Key: m.Key} }
