package memory

import (
	"errors"
	"hash/fnv"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"

	"github.com/cqrsync/cqrsync/internal/ledger"
)

// revision is a row of the ledger.
type revision struct {
	last   int64
	lockBy *Tx
}

// ErrLocked says that another transaction has a key. A database would wait; whoever simulates one
// chooses another key.
var ErrLocked = errors.New("another transaction has the key")

// Tx is a transaction of a writer. Its identities are drawn when it appends, and may lie below
// those of others that commit before it.
type Tx struct {
	d        *Database
	rows     []*row
	keys     []queue.Key
	restores int // of the database when it began
}

// Begin begins a transaction.
func (d *Database) Begin() *Tx {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &Tx{d: d, restores: d.restores}
}

// lost says that the database went back since it began.
func (tx *Tx) lost() bool { return tx.restores != tx.d.restores }

// Lock raises the revision of a key, and keeps the key until the transaction ends.
func (tx *Tx) Lock(key queue.Key) (ledger.Revision, error) {
	tx.d.mu.Lock()
	defer tx.d.mu.Unlock()
	r, known := tx.d.revisions[key]
	if tx.lost() {
		return ledger.Revision{}, ErrLost
	}
	if r.lockBy != nil {
		return ledger.Revision{}, ErrLocked
	}
	drawn := ledger.Revision{Key: key, Follows: true, Updated: time.Now()}
	if known {
		drawn.After, drawn.Revision = new(r.last), r.last+1
	}
	tx.d.revisions[key] = revision{last: drawn.Revision, lockBy: tx}
	tx.keys = append(tx.keys, key)
	return drawn, nil
}

// Append writes messages, and returns them as they may be handed over: none if it is lost.
func (tx *Tx) Append(messages ...queue.Message) (appended []*queue.Claimed) {
	d := tx.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if tx.lost() {
		return nil
	}
	d.first[tx] = struct{}{}
	for _, m := range messages {
		d.drawn++
		m.ID, m.Lane, m.Created = d.drawn, d.laneOf(keyOf(&m)), time.Now()
		d.writes(&m)
		r := &row{Message: m, by: tx}
		tx.rows = append(tx.rows, r)
		d.rows[m.Lane] = append(d.rows[m.Lane], r)
		appended = append(appended, &queue.Claimed{Message: m})
	}
	return appended
}

// Commit makes what the transaction wrote visible, or returns ErrLost.
func (tx *Tx) Commit() error {
	tx.d.mu.Lock()
	defer tx.d.mu.Unlock()
	if tx.lost() {
		return ErrLost
	}
	for _, r := range tx.rows {
		r.by = nil
	}
	tx.end(func(last int64) int64 { return last })
	return nil
}

// Rollback makes it as if the transaction had not been, but for the identities it drew.
func (tx *Tx) Rollback() {
	tx.d.mu.Lock()
	defer tx.d.mu.Unlock()
	if tx.lost() {
		return
	}
	for _, r := range tx.rows {
		tx.d.remove(r)
	}
	tx.end(func(last int64) int64 { return last - 1 })
}

func (tx *Tx) end(revised func(last int64) int64) {
	for _, key := range tx.keys {
		if last := revised(tx.d.revisions[key].last); last >= 0 {
			tx.d.revisions[key] = revision{last: last}
		} else {
			delete(tx.d.revisions, key)
		}
	}
	delete(tx.d.first, tx)
}

// PutByHand writes messages as somebody does who inserts rows with identities of their own, which
// are below all others, and returns them as they stand there.
func (d *Database) PutByHand(messages ...queue.Message) (put []queue.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, m := range messages {
		d.byHand++
		m.ID, m.Lane, m.Created = d.byHand, d.laneOf(keyOf(&m)), time.Now()
		at, _ := slices.BinarySearchFunc(d.rows[m.Lane], m.ID, compareID)
		d.rows[m.Lane] = slices.Insert(d.rows[m.Lane], at, &row{Message: m})
		d.revisions[keyOf(&m)] = revision{last: m.Revision}
		put = append(put, m)
	}
	return put
}

func (d *Database) laneOf(key queue.Key) int {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key.Model)) // a hash never fails
	_, _ = h.Write([]byte{0})
	_, _ = h.Write([]byte(key.Key))
	return int(h.Sum64() % uint64(len(d.lanes)))
}

// Unsent lists what was committed and is not removed, lane by lane.
func (d *Database) Unsent() (all []queue.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range slices.Concat(d.rows...) {
		if r.by == nil {
			all = append(all, r.Message)
		}
	}
	return all
}

// DeadLetters lists what was given up.
func (d *Database) DeadLetters() (all []queue.Message) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.dead {
		all = append(all, f.Message)
	}
	return all
}
