package replica

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// memoryRoom is a room in memory. One transaction at a time writes, as in SQLite; one that only reads may be
// overtaken, as in PostgreSQL.
type memoryRoom struct {
	ledger  map[db.Key]memoryRow
	waiting map[place]*memoryWaiting
	dead    []applied.DeadLetter
	passed  map[place]memoryPassed
	rows    map[db.Key]string // what the service's handlers write
	count   int64             // of what was put into the waiting room

	open []*memoryTransaction // innermost last

	// trouble is asked before each step of a transaction, and once more with "committed" after a commit.
	trouble func(step string) error
}

// place is a revision of a key.
type place struct {
	key      db.Key
	revision int64
}

type memoryRow struct {
	applied.Applied
	version int64
	since   time.Time // when it was deleted
}

type memoryWaiting struct {
	applied.Waiting
	due, gapAt time.Time
	since      int64
}

type memoryPassed struct {
	applied.Passed
	due time.Time
}

func newMemoryRoom() *memoryRoom {
	return &memoryRoom{
		ledger:  map[db.Key]memoryRow{},
		waiting: map[place]*memoryWaiting{},
		passed:  map[place]memoryPassed{},
		rows:    map[db.Key]string{},
		trouble: func(string) error { return nil },
	}
}

func (r *memoryRoom) transact(
	ctx context.Context, _ db.BatchLimits, use func(context.Context, transaction) error,
) error {
	tx := &memoryTransaction{memoryRoom: r, versions: map[db.Key]int64{}}
	r.open = append(r.open, tx)
	err := use(ctx, tx)
	if err == nil {
		err = r.trouble("commit")
	}
	if err != nil {
		tx.undo(0)
	}
	r.open = r.open[:len(r.open)-1]
	if err == nil {
		err = r.trouble("committed")
	}
	return err
}

func (r *memoryRoom) briefTries() int  { return 3 }
func (r *memoryRoom) hidesWhose() bool { return false }
func (r *memoryRoom) mostText() int    { return 1 << 20 }

func (r *memoryRoom) applied(_ context.Context, key db.Key) (applied.Applied, error) {
	return r.row(key), r.trouble("applied")
}

// row is the ledger's row of a key, known or not.
func (r *memoryRoom) row(key db.Key) applied.Applied {
	if row, known := r.ledger[key]; known {
		return row.Applied
	}
	return applied.Applied{Key: key, Revision: applied.NeverApplied}
}

func (r *memoryRoom) takePassed(_ context.Context, n int) (taken []applied.Passed, err error) {
	for p, passed := range r.passed {
		if len(taken) < n && !passed.due.After(time.Now()) {
			taken = append(taken, passed.Passed)
			delete(r.passed, p)
		}
	}
	return taken, r.trouble("takePassed")
}

func (r *memoryRoom) collectTombstones(_ context.Context, age time.Duration, n int) (int64, error) {
	before := len(r.ledger)
	maps.DeleteFunc(r.ledger, func(_ db.Key, row memoryRow) bool {
		return row.Deleted && before-len(r.ledger) < n && time.Since(row.since) > age
	})
	return int64(before - len(r.ledger)), r.trouble("collectTombstones")
}

func (r *memoryRoom) nextWaiting(context.Context) (in time.Duration, some bool, err error) {
	var next time.Time
	for _, w := range r.waiting {
		if next.IsZero() || w.due.Before(next) {
			next = w.due
		}
	}
	return max(0, time.Until(next)), len(r.waiting) > 0, r.trouble("nextWaiting")
}

func (r *memoryRoom) claimWaiting(_ context.Context, n int, lease time.Duration) ([]applied.Waiting, error) {
	if err := r.trouble("claimWaiting"); err != nil {
		return nil, err
	}
	due := slices.DeleteFunc(r.sorted(), func(w *memoryWaiting) bool { return w.due.After(time.Now()) })
	slices.SortStableFunc(due, func(a, b *memoryWaiting) int { return a.due.Compare(b.due) })
	var claimed []applied.Waiting
	for _, w := range due[:min(n, len(due))] {
		w.due = time.Now().Add(lease)
		if claimed = append(claimed, w.Waiting); w.Awaits != nil {
			claimed[len(claimed)-1].GapIn = time.Until(w.gapAt)
		}
	}
	return claimed, nil
}

// sorted is what waits, by key and revision.
func (r *memoryRoom) sorted() []*memoryWaiting {
	return slices.SortedFunc(maps.Values(r.waiting), func(a, b *memoryWaiting) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.Key.Key, b.Key.Key), cmp.Compare(a.Revision, b.Revision))
	})
}

func (r *memoryRoom) releaseWaiting(_ context.Context, parents []db.Key) (n int64, err error) {
	for _, w := range r.waiting {
		if slices.Contains(parents, w.Parent) {
			w.due, w.Parent = time.Now(), db.Key{}
			n++
		}
	}
	return n, r.trouble("releaseWaiting")
}

func (r *memoryRoom) countWaiting(context.Context) (map[string]int64, error) {
	counts := map[string]int64{}
	for _, w := range r.waiting {
		counts[w.Model]++
	}
	return counts, r.trouble("countWaiting")
}

func (r *memoryRoom) deadLetterAfter(
	_ context.Context, model, key string, revision int64,
) (dead bool, after *int64, err error) {
	for _, l := range r.dead {
		if l.Model != model || l.Key != key || l.Revision == nil || *l.Revision != revision {
			continue
		}
		if n, err := strconv.ParseInt(l.Metadata["cqrs_after"], 10, 64); err == nil {
			after = &n
		}
		return true, after, r.trouble("deadLetterAfter")
	}
	return false, nil, r.trouble("deadLetterAfter")
}

// memoryTransaction writes at once, and knows how to take it back.
type memoryTransaction struct {
	*memoryRoom
	undos    []func()
	versions map[db.Key]int64 // as they were read without a lock
}

func (t *memoryTransaction) undo(down int) {
	for len(t.undos) > down {
		t.undos[len(t.undos)-1]()
		t.undos = t.undos[:len(t.undos)-1]
	}
}

// change sets or, where value is nil, deletes an entry of a map until the transaction is undone.
func change[K comparable, V any](t *memoryTransaction, m map[K]V, key K, value *V) {
	before, known := m[key]
	t.undos = append(t.undos, func() {
		if known {
			m[key] = before
		} else {
			delete(m, key)
		}
	})
	if value == nil {
		delete(m, key)
	} else {
		m[key] = *value
	}
}

func (t *memoryTransaction) savepoint(_ context.Context, use func(transaction) error) error {
	down := len(t.undos)
	err := use(t)
	if err != nil {
		t.undo(down)
	}
	return err
}

func (t *memoryTransaction) service() bun.Tx                         { return bun.Tx{} }
func (t *memoryTransaction) blameAtOnce(context.Context) error       { return nil }
func (t *memoryTransaction) violations(context.Context) (int, error) { return 0, nil }

func (t *memoryTransaction) readLedger(_ context.Context, keys []db.Key) (map[db.Key]applied.Applied, error) {
	read := map[db.Key]applied.Applied{}
	for _, k := range keys {
		read[k] = t.row(k)
		t.versions[k] = t.ledger[k].version
	}
	return read, t.trouble("readLedger")
}

func (t *memoryTransaction) lockLedger(_ context.Context, keys []db.Key) (map[db.Key]applied.Applied, error) {
	locked := map[db.Key]applied.Applied{}
	for _, k := range keys {
		locked[k] = t.row(k)
		delete(t.versions, k)
		change(t, t.ledger, k, &memoryRow{Applied: locked[k], version: t.ledger[k].version})
	}
	return locked, t.trouble("lockLedger")
}

func (t *memoryTransaction) lockFree(ctx context.Context, keys []db.Key) (map[db.Key]applied.Applied, error) {
	return t.lockLedger(ctx, keys)
}

func (t *memoryTransaction) settleRows(_ context.Context, rows []applied.Applied) error {
	for _, a := range rows {
		if read, unlocked := t.versions[a.Key]; unlocked && read != t.ledger[a.Key].version {
			return applied.ErrOvertaken
		}
		row := memoryRow{Applied: a, version: t.ledger[a.Key].version + 1}
		if a.Deleted {
			row.since = time.Now()
		}
		change(t, t.ledger, a.Key, &row)
	}
	return t.trouble("settleRows")
}

func (t *memoryTransaction) forgetLocked(_ context.Context, keys []db.Key) error {
	for _, k := range keys {
		if t.row(k).Revision == applied.NeverApplied {
			change(t, t.ledger, k, nil)
		}
	}
	return t.trouble("forgetLocked")
}

func (t *memoryTransaction) addWaiting(_ context.Context, rows []applied.Waiting) error {
	for _, w := range rows {
		t.count++
		kept := &memoryWaiting{w, time.Now().Add(w.In), time.Now().Add(w.GapIn), t.count}
		change(t, t.waiting, place{w.Key, w.Revision}, &kept)
	}
	return t.trouble("addWaiting")
}

func (t *memoryTransaction) waitingFor(_ context.Context, keys []db.Key) (map[db.Key]applied.Applied, error) {
	found := map[db.Key]applied.Applied{}
	for _, w := range t.sorted() {
		other, known := found[w.Key]
		if slices.Contains(keys, w.Key) && (!known || isNewer(w.Applied, other)) {
			found[w.Key] = w.Applied
		}
	}
	return found, t.trouble("waitingFor")
}

// isNewer says that a is a later state of a key than b, as far as it can be told.
func isNewer(a, b applied.Applied) bool {
	if !a.Updated.IsZero() && !b.Updated.IsZero() && !a.Updated.Equal(b.Updated) {
		return a.Updated.After(b.Updated)
	}
	return a.Revision > b.Revision
}

func (t *memoryTransaction) forgetWaiting(_ context.Context, keys []db.Key) error {
	for _, w := range t.sorted() {
		if w.Awaits == nil && slices.Contains(keys, w.Key) {
			change(t, t.waiting, place{w.Key, w.Revision}, nil)
		}
	}
	return t.trouble("forgetWaiting")
}

func (t *memoryTransaction) removeWaiting(_ context.Context, rows []applied.Applied) error {
	for _, a := range rows {
		change(t, t.waiting, place{a.Key, a.Revision}, nil)
	}
	return t.trouble("removeWaiting")
}

func (t *memoryTransaction) releaseNext(_ context.Context, reached map[db.Key]int64) (released int64, err error) {
	at := maps.Clone(reached)
	for _, w := range t.sorted() {
		if now, asked := at[w.Key]; !asked || w.Awaits == nil || *w.Awaits > now {
			continue
		}
		due := *w
		due.Awaits, due.GapIn, due.due = nil, 0, time.Now()
		next := &due
		change(t, t.waiting, place{w.Key, w.Revision}, &next)
		at[w.Key] = max(at[w.Key], w.Revision)
		released++
	}
	return released, t.trouble("releaseNext")
}

func (t *memoryTransaction) waitingOf(_ context.Context, keys []db.Key) ([]applied.Waiting, error) {
	return t.newest(len(keys), func(w *memoryWaiting) bool { return slices.Contains(keys, w.Key) }), t.trouble("waitingOf")
}

func (t *memoryTransaction) waitingIn(_ context.Context, model string, n int) ([]applied.Waiting, error) {
	return t.newest(n, func(w *memoryWaiting) bool { return w.Model == model }), t.trouble("waitingIn")
}

// newest are up to n waiting messages, the last one of each key.
func (t *memoryTransaction) newest(n int, which func(*memoryWaiting) bool) (found []applied.Waiting) {
	all := slices.DeleteFunc(t.sorted(), func(w *memoryWaiting) bool { return !which(w) })
	slices.SortStableFunc(all, func(a, b *memoryWaiting) int { return cmp.Compare(b.since, a.since) })
	known := map[db.Key]bool{}
	for _, w := range all[:min(n, len(all))] {
		if !known[w.Key] {
			known[w.Key] = true
			found = append(found, w.Waiting)
		}
	}
	return found
}

func (t *memoryTransaction) addDeadLetter(_ context.Context, letter applied.DeadLetter) error {
	before := len(t.dead)
	t.undos = append(t.undos, func() { t.dead = t.dead[:before] })
	t.dead = append(t.dead, letter)
	return t.trouble("addDeadLetter")
}

func (t *memoryTransaction) addPassed(_ context.Context, passed []applied.Passed, in time.Duration) error {
	for _, p := range passed {
		change(t, t.passed, place{p.Key, p.Applied}, &memoryPassed{p, time.Now().Add(in)})
	}
	return t.trouble("addPassed")
}

func (t *memoryTransaction) closePassed(_ context.Context, late []applied.Late) error {
	for at, p := range maps.Clone(t.passed) {
		closed := false
		for _, l := range late {
			closed = closed || l.Key == p.Key && p.Closes(l)
		}
		if closed {
			change(t, t.passed, at, nil)
		} else {
			change(t, t.passed, at, &p)
		}
	}
	return t.trouble("closePassed")
}

// write is what a service's handler writes. An empty text deletes.
func (r *memoryRoom) write(key db.Key, text string) {
	t := r.open[len(r.open)-1]
	if text == "" {
		change(t, r.rows, key, nil)
	} else {
		change(t, r.rows, key, &text)
	}
}
