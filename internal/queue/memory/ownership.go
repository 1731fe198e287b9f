package memory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// Queue is one relay's view of the database: it remembers what the relay wrote, as its process
// does.
type Queue struct {
	*Database

	remembered sync.Mutex
	beats      map[string]int64 // of the last renewal of a relay
	known      queue.Incarnation
	server     int  // that lanes were taken from
	entered    bool // server is known
	placed     bool // it was asked where the database is
}

// Connect makes one.
func (d *Database) Connect() *Queue { return &Queue{Database: d, beats: map[string]int64{}} }

// Enter is queue.Queue.Enter.
func (q *Queue) Enter(_ context.Context, relay string, ttl time.Duration) (queue.Ownership, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settleIn()
	q.begins(relay)
	q.settleIn()
	q.giveUp(relay)
	owned := q.balance(relay, ttl)
	q.wrote(relay)
	return owned, nil
}

// Balance is queue.Queue.Balance.
func (q *Queue) Balance(
	_ context.Context, relay string, ttl time.Duration,
) (queue.Ownership, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settleIn()
	if err := q.requireTimeline(relay); err != nil {
		return queue.Ownership{}, fmt.Errorf("balance lanes: %w", err)
	}
	owned := q.balance(relay, ttl)
	q.wrote(relay)
	return owned, nil
}

// Renew is queue.Queue.Renew.
func (q *Queue) Renew(_ context.Context, relay string, ttl time.Duration) (queue.Ownership, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.settleIn()
	if err := q.requireTimeline(relay); err != nil {
		return queue.Ownership{}, fmt.Errorf("renew lanes: %w", err)
	}
	owned := q.renew(relay, ttl)
	q.wrote(relay)
	return owned, nil
}

// Others is queue.Queue.Others.
func (q *Queue) Others(_ context.Context, relay string) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.others(relay), nil
}

func (d *Database) others(relay string) bool {
	now := time.Now()
	for id, l := range d.relays {
		if id != relay && !l.expires.Before(now) {
			return true
		}
	}
	return false
}

// Withdraw is queue.Queue.Withdraw.
func (q *Queue) Withdraw(_ context.Context, relay string) (others bool, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if others = q.others(relay); others {
		delete(q.relays, relay)
	}
	return others, nil
}

// SignOff is queue.Queue.SignOff.
func (q *Queue) SignOff(_ context.Context, relay string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.relays, relay)
	return nil
}

// Leave is queue.Queue.Leave.
func (q *Queue) Leave(_ context.Context, relay string, lanes []queue.Lane) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	others := false
	for i := range q.lanes {
		switch l := &q.lanes[i]; {
		case l.owner != relay:
		case slices.Contains(lanes, l.Lane):
			l.owner = ""
		default:
			others = true
		}
	}
	if !others {
		delete(q.relays, relay)
	}
	q.remembered.Lock()
	defer q.remembered.Unlock()
	delete(q.beats, relay)
	return nil
}

// owns says that a relay has a lane under the very tenure that lanes say, on the server that it
// took it from.
func (q *Queue) owns(relay string, lanes []queue.Lane, number int) bool {
	l := &q.lanes[number]
	return l.owner == relay && slices.Contains(lanes, l.Lane) && !q.elsewhere()
}

func (d *Database) giveUp(relay string) {
	for i := range d.lanes {
		if d.lanes[i].owner == relay {
			d.lanes[i].owner = ""
		}
	}
}

// renew extends the lease of a relay, forgets those that ran out, and counts its share.
func (d *Database) renew(relay string, ttl time.Duration) queue.Ownership {
	now := time.Now()
	d.relays[relay] = lease{now.Add(ttl)}
	var owned queue.Ownership
	for i := range d.lanes {
		if l := &d.lanes[i]; l.owner == relay {
			l.expires = now.Add(ttl)
			owned.Lanes = append(owned.Lanes, l.Lane)
		}
	}
	live := 0
	for id, l := range d.relays {
		if l.expires.Before(now) {
			delete(d.relays, id)
		} else {
			live++
		}
	}
	live = max(live, 1) // a ttl of less than nothing: this relay is live all the same
	owned.Share = (len(d.lanes) + live - 1) / live
	others, ofOther := 0, map[string]int{}
	for i := range d.lanes {
		switch l := &d.lanes[i]; {
		case d.free(l, now):
			owned.Free++
		case l.owner != relay:
			others++
			ofOther[l.owner]++
			owned.Most = max(owned.Most, ofOther[l.owner])
		}
	}
	owned.Alone = others == 0 && live < 2
	owned.Incarnation = d.incarnation
	return owned
}

func (d *Database) free(l *lane, now time.Time) bool {
	return l.owner == "" || l.expires.Before(now)
}

// balance renews, and gives or takes lanes.
func (d *Database) balance(relay string, ttl time.Duration) queue.Ownership {
	owned, now := d.renew(relay, ttl), time.Now()
	if len(owned.Lanes) > owned.Share {
		for _, l := range owned.Lanes[owned.Share:] {
			d.lanes[l.Lane].owner = ""
		}
		owned.Lanes = owned.Lanes[:owned.Share]
		return owned
	}
	nonce, missing := rand.Int64(), owned.Share-len(owned.Lanes)
	owned.Lanes = nil
	for i := range d.lanes {
		l := &d.lanes[i]
		if l.owner != relay && missing > 0 && d.free(l, now) {
			missing--
			l.owner, l.expires = relay, now.Add(ttl)
			l.Epoch, l.Nonce = l.Epoch+1, nonce
		} else if l.owner != relay {
			continue
		}
		owned.Lanes = append(owned.Lanes, l.Lane)
	}
	return owned
}
