package memory

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// elsewhere says that another server answers than the one that lanes were taken from.
func (q *Queue) elsewhere() bool {
	q.remembered.Lock()
	defer q.remembered.Unlock()
	return q.entered && q.server != q.Database.server
}

// requireServer returns queue.ErrWentBack where another server answers.
func (q *Queue) requireServer() error {
	if !q.elsewhere() {
		return nil
	}
	q.remembered.Lock()
	defer q.remembered.Unlock()
	q.placed = false
	return fmt.Errorf("%w: another server answers", queue.ErrWentBack)
}

// requireTimeline returns queue.ErrWentBack where another server answers, or the lanes are not as
// the relay left them.
func (q *Queue) requireTimeline(relay string) error {
	if err := q.requireServer(); err != nil {
		return err
	}
	if q.wentBack(relay) {
		return fmt.Errorf("%w: the lease is not as it was renewed last", queue.ErrWentBack)
	}
	return nil
}

func (q *Queue) wentBack(relay string) bool {
	q.remembered.Lock()
	defer q.remembered.Unlock()
	beat, known := q.beats[relay]
	for i := range q.lanes {
		if l := &q.lanes[i]; known && l.owner == relay && l.beat != beat {
			return true
		}
	}
	return false
}

// begins takes what is there for the truth, and draws an incarnation if it is another one than was
// known, and nobody has.
func (q *Queue) begins(relay string) {
	back := q.wentBack(relay)
	q.remembered.Lock()
	defer q.remembered.Unlock()
	if q.entered && q.server != q.Database.server {
		q.placed = false
	}
	q.server, q.entered = q.Database.server, true
	switch known, found := q.known, q.incarnation; {
	case known.ID == "":
	case found.ID == known.ID && back, found.ID != known.ID && found.Drawn.Before(known.Drawn):
		q.draw("the database went back to an earlier state")
	}
}

// settleIn draws an incarnation where the database is not where it was, if that is asked.
func (q *Queue) settleIn() {
	q.remembered.Lock()
	defer q.remembered.Unlock()
	if !q.placed && q.place != q.Database.server {
		q.draw("the database is another server or a restored copy")
	}
	q.placed = true
}

// draw draws an incarnation.
func (d *Database) draw(reason string) {
	id := fmt.Sprint("1-", len(d.incarnations))
	d.incarnations = append(d.incarnations, id)
	d.incarnation = queue.Incarnation{ID: id, Drawn: time.Now(), Reason: reason}
	d.place = d.server
}

// wrote draws a beat for the relay's lanes.
func (q *Queue) wrote(relay string) {
	q.remembered.Lock()
	defer q.remembered.Unlock()
	beat := rand.Int64()
	for i := range q.lanes {
		if q.lanes[i].owner == relay {
			q.lanes[i].beat = beat
		}
	}
	q.beats[relay] = beat
	q.known = q.incarnation
}
