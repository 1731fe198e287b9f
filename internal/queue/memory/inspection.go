package memory

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"

	"github.com/cqrsync/cqrsync/internal/db"
)

// RequireMigrated is queue.Queue.RequireMigrated.
func (*Database) RequireMigrated(context.Context, db.Side) error { return nil }

// Status is queue.Queue.Status.
func (d *Database) Status(context.Context) (queue.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	s := queue.Status{
		Lanes: int64(len(d.lanes)), Retries: int64(len(d.retries)), DeadLetters: int64(len(d.dead)),
	}
	for _, l := range d.relays {
		if !l.expires.Before(now) {
			s.Relays++
		}
	}
	for i := range d.lanes {
		if !d.free(&d.lanes[i], now) {
			s.LanesOwned++
		}
		oldest := true
		for _, r := range d.rows[i] {
			if r.by != nil {
				continue
			}
			s.Unsent++
			if oldest {
				s.OldestAge = max(s.OldestAge, now.Sub(r.Created))
			}
			oldest = false
		}
	}
	return s, nil
}

// Progress is queue.Queue.Progress.
func (d *Database) Progress(_ context.Context, relay string) (queue.Progress, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	p := queue.Progress{Lanes: int64(len(d.lanes))}
	for i := range d.lanes {
		l := &d.lanes[i]
		live := !d.free(l, now)
		if live {
			p.Owned++
		}
		if live && l.owner == relay {
			p.Own++
		}
		age := d.oldest(i, now)
		if l.owner == relay {
			p.OldestAge = max(p.OldestAge, age)
		}
		if !live {
			p.OrphanAge = max(p.OrphanAge, age)
		}
	}
	return p, nil
}

// oldest is the age of the first message of a lane whose key does not wait.
func (d *Database) oldest(lane int, now time.Time) time.Duration {
	for _, r := range d.rows[lane] {
		if _, waits := d.retries[keyOf(&r.Message)]; r.by == nil && !waits {
			return now.Sub(r.Created)
		}
	}
	return 0
}
