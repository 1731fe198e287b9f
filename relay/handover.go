package relay

import (
	"time"

	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// Handover brings what an outbox.Box of the same process has just committed: outbox.Box.Handover
// makes it. What it brings is cqrsync's own, so nobody else can.
type Handover interface {
	// Offers is what one transaction after the other appended. It never ends; nil brings nothing.
	Offers() <-chan handover.Offer
	// Missed says, once, that there was no room for an offer: then the outbox must be read.
	Missed() bool
}

// offers is what the relay takes from, nil without a handover.
func (c Config) offers() <-chan handover.Offer {
	if c.Handover == nil {
		return nil
	}
	return c.Handover.Offers()
}

// take takes messages that a transaction in this process has just committed, as if a claim had
// brought them. What it cannot take, a claim brings.
func (r *Relay) take(o handover.Offer) {
	read := r.cfg.Handover.Missed() || o.Rest
	for _, m := range o.Messages {
		if r.reader.lanes.of(m.Lane) == nil { // another relay's
			continue
		}
		taken := r.lease.valid() && r.hasRoom() && r.flow.join(&queue.Claimed{Message: m}, o.Before)
		read = read || !taken
	}
	if read {
		r.reader.hurry()
	}
}

// join takes in a message that was not claimed, unless a claim was first. It returns false if it
// must be claimed.
//
// What it takes cannot have been sent yet, and nothing of its key that has not been here can stand
// in the outbox before it (P4):
//   - It was committed after before, and all revisions that came in since are remembered (recent),
//     which is also only since the lanes are owned: no other relay has read it, and if it had been
//     read here that would be remembered.
//   - The writer, who held the key's lock, says that nothing of the key went into the outbox
//     between the message of revision After and this one (Message.Follows), and that one was here,
//     or there is none.
func (f *flow) join(m *queue.Claimed, before time.Time) bool {
	key := keyOf(m)
	newest, known := f.newest.get(key)
	switch {
	case known && newest >= m.Revision:
		return true
	case !m.Follows || !before.After(f.newest.since):
		return false
	case known && (m.After == nil || newest != *m.After), !known && m.Revision != 0:
		return false
	}
	q := f.keys[key]
	if q == nil {
		q = &lineup{}
		f.keys[key] = q
		f.line(key, q, m)
		f.start(f.next(q))
		return true
	}
	if q.more != nil || !f.room(q) {
		return false
	}
	f.line(key, q, m)
	return true
}

// recent remembers the newest revision that was here of each key: of all that came in since a time,
// which moves on as memory fills up. Nil remembers nothing.
type recent struct {
	since      time.Time
	turned     time.Time // when young was begun
	young, old map[queue.Key]int64
}

// recentKeys is how many keys are remembered at least; twice as many at most.
const recentKeys = 16 << 10

// dropped stands for a key whose messages have to be read again.
const dropped = -1

func newRecent() *recent {
	now := time.Now()
	return &recent{since: now, turned: now, young: map[queue.Key]int64{}}
}

func (r *recent) put(key queue.Key, revision int64) {
	if r == nil {
		return
	}
	if len(r.young) >= recentKeys {
		r.since, r.old = r.turned, r.young
		r.turned, r.young = time.Now(), map[queue.Key]int64{}
	}
	r.young[key] = revision
}

func (r *recent) get(key queue.Key) (revision int64, known bool) {
	if revision, known = r.young[key]; !known {
		revision, known = r.old[key]
	}
	return revision, known
}
