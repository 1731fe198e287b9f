package simulation

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// write runs the transactions of the services, each in its own goroutine at its own time.
func (w *world) write() {
	for n := range w.schedule.transactions {
		w.running.Go(func() { w.transaction(n) })
	}
}

func (w *world) transaction(n int) {
	r := w.schedule.dice("transaction", n)
	pause(between(r, 0, troubled))
	w.commit(r, func() string { return fmt.Sprint("k", r.IntN(w.schedule.keys)) })
}

// commit writes to a few keys in one transaction.
func (w *world) commit(r *rand.Rand, key func() string) {
	tx, timeline := w.database.Begin(), w.checker.timeline()
	var messages []queue.Message
	for range 1 + r.IntN(3) {
		revision, err := tx.Lock(queue.Key{Model: "order", Key: key()})
		if err != nil { // another one has it, which may be this one
			continue
		}
		messages = append(messages, w.message(r, revision, timeline))
	}
	if len(messages) == 0 {
		tx.Rollback()
		return
	}
	for i, m := range tx.Append(messages...) {
		messages[i] = m.Message
	}
	if happens(r, w.schedule.lateCommit) {
		pause(between(r, 0, troubled/3))
	} else {
		pause(between(r, 1, time.Millisecond))
	}
	if happens(r, w.schedule.rollback) {
		tx.Rollback()
		return
	}
	before := time.Now()
	pause(time.Duration(1 + r.Int64N(1000))) // the commit takes a while
	if err := tx.Commit(); err != nil {
		return // the database went back
	}
	w.checker.commits(messages)
	if w.handover != nil {
		w.handover.Offer(handover.Offer{Messages: messages, Before: before})
	}
}

// message says what a key is like. The timeline stands in it, because a database that went back
// draws the same revisions again.
func (w *world) message(r *rand.Rand, revision ledger.Revision, timeline string) queue.Message {
	m := queue.Message{
		Model: revision.Model, Key: revision.Key.Key, Revision: revision.Revision, After: revision.After,
		Follows: revision.Follows, Signal: "SAVE", PK: json.RawMessage(`"` + revision.Key.Key + `"`),
		Data: json.RawMessage(`{"a":1}`), Updated: revision.Updated, Keep: happens(r, w.schedule.kept),
		CorrelationID: timeline,
	}
	if happens(r, w.schedule.deleted) {
		m.Signal = "DELETE"
	}
	return m
}

// putByHand puts rows below all others, as somebody does who mends an outbox. Services write to
// their keys when the first of them has left: before, no relay can know that something stands below
// what it has read.
func (w *world) putByHand() {
	for n := range 4 {
		r := w.schedule.dice("by hand", n)
		if !happens(r, w.schedule.byHand) {
			continue
		}
		w.mending.Add(1)
		w.running.Go(func() {
			defer w.mending.Add(-1)
			pause(between(r, 0, troubled))
			key := queue.Key{Model: "order", Key: fmt.Sprint("h", n)}
			var rows []queue.Message
			for revision := range int64(1 + r.IntN(6)) {
				drawn := ledger.Revision{Key: key, Revision: revision, Updated: time.Now()}
				if revision > 0 {
					drawn.After = new(revision - 1)
				}
				rows = append(rows, w.message(r, drawn, w.checker.timeline()))
			}
			put := w.database.PutByHand(rows...)
			w.checker.commits(put)
			for !w.checker.hasLeft(key.Key) && w.stands(put) && time.Since(w.began) < troubled+patience {
				pause(between(r, 1, 20*time.Millisecond))
			}
			for range 1 + r.IntN(3) {
				w.commit(r, func() string { return key.Key })
			}
		})
	}
}

// stands says that one of several messages is in the outbox.
func (w *world) stands(any []queue.Message) bool {
	return slices.ContainsFunc(w.database.Unsent(), func(m queue.Message) bool {
		return slices.ContainsFunc(any, func(a queue.Message) bool {
			return a.ID == m.ID && a.Created.Equal(m.Created)
		})
	})
}

// goBack takes the database back to what it was.
func (w *world) goBack() {
	for n := range w.schedule.restores {
		r := w.schedule.dice("restore", n)
		w.running.Go(func() {
			at := between(r, 0, troubled/2)
			age := between(r, 1, troubled-at)
			if w.schedule.alike || r.IntN(4) == 0 { // before there are relays, and not for long
				at, age = between(r, 0, ttl/100), between(r, ttl/20, ttl/2)
			}
			pause(at)
			restore, wentBack := w.database.BackUp(), w.checker.backUp()
			pause(age)
			stale := w.database.Incarnations()
			restore()
			if w.schedule.failover {
				w.database.FailOver()
			}
			if w.schedule.alike {
				w.database.TurnBackClock()
			}
			wentBack(stale, w.schedule.failover)
		})
	}
}

// hold locks rows now and then, as somebody does who edits the tables by hand.
func (w *world) hold() {
	for n := range 4 {
		r := w.schedule.dice("hold", n)
		if !happens(r, w.schedule.held) {
			continue
		}
		w.running.Go(func() {
			pause(between(r, 0, troubled))
			unsent := w.database.Unsent()
			if len(unsent) == 0 {
				return
			}
			release := w.database.Hold(unsent[r.IntN(len(unsent))].ID)
			pause(between(r, 0, troubled/3))
			release()
		})
	}
}
