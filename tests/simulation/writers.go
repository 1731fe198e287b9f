package simulation

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// write runs the transactions of the services, each in its own goroutine at its own time.
func (w *world) write() {
	for n := range w.schedule.transactions {
		w.running.Go(func() { w.transaction(n) })
	}
}

func (w *world) transaction(n int) {
	s := w.schedule
	r := s.dice("transaction", n)
	pause(between(r, 0, troubled))
	tx, messages := w.database.Begin(), []queue.Message{}
	for range 1 + r.IntN(3) {
		key := queue.Key{Model: "order", Key: fmt.Sprint("k", r.IntN(s.keys))}
		revision, err := tx.Lock(key)
		if err != nil { // another one has it, which may be this one
			continue
		}
		m := queue.Message{
			Model: key.Model, Key: key.Key, Revision: revision.Revision, After: revision.After, Follows: revision.Follows,
			Signal: "SAVE", PK: json.RawMessage(`"` + key.Key + `"`), Data: json.RawMessage(`{"a":1}`),
			Updated: revision.Updated, Keep: happens(r, s.kept),
		}
		if happens(r, s.deleted) {
			m.Signal = "DELETE"
		}
		messages = append(messages, m)
	}
	if len(messages) == 0 {
		tx.Rollback()
		return
	}
	handed := tx.Append(messages...)
	for i := range messages {
		messages[i] = handed[i].Message
	}
	if happens(r, s.lateCommit) {
		pause(between(r, 0, troubled/3))
	} else {
		pause(between(r, 1, time.Millisecond))
	}
	if happens(r, s.rollback) {
		tx.Rollback()
		return
	}
	before := time.Now()
	pause(time.Duration(1 + r.Int64N(1000))) // the commit takes a while
	tx.Commit()
	w.checker.commits(messages)
	if w.handover != nil {
		w.handover.Offer(handover.Offer{Messages: messages, Before: before})
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
