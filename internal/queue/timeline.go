package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/uptrace/bun"
)

// ErrWentBack says that what a relay remembers of the database may never have happened there:
// another server answers, as after a failover, or the lanes are not as the relay left them, as in a
// restored backup. What was committed last may be gone, and identities are drawn again. The relay
// must forget everything and Enter anew.
var ErrWentBack = errors.New("the database is another server, was restarted, or went back to an " +
	"earlier state")

// timeline is what tells the history of the database that the relays of a store have taken part in
// from another one.
type timeline struct {
	mu     sync.Mutex
	server string
	known  bool // server is
	// asked is when server answered last.
	asked time.Time
	// beats are the random numbers that the lanes of a relay may have: that of the last renewal,
	// and those of renewals that have not said since whether they were committed.
	beats map[string][]int64

	incarnation Incarnation // as it was known last
	placed      time.Time   // when it was asked where the database is
}

// placeDue says that it is time to ask where the database is, and takes it for asked.
func (t *timeline) placeDue(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.placed.IsZero() && now.Sub(t.placed) < placeEvery {
		return false
	}
	t.placed = now
	return true
}

// moved says that another server answers, and nobody has asked yet where the database is.
func (t *timeline) moved() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.placed.IsZero()
}

// knows returns the incarnation as it was known last.
func (t *timeline) knows() Incarnation {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.incarnation
}

// learns notes the incarnation.
func (t *timeline) learns(i Incarnation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.incarnation = i
}

// random is a number that no other timeline draws.
func random() int64 { return rand.Int64() }

// writes notes that a relay is about to write a beat. Of one that is not known, whatever is there
// is taken for its own.
func (t *timeline) writes(relay string, beat int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before, known := t.beats[relay]; known {
		t.beats[relay] = append(before, beat)
	}
}

// written notes that the beat is there.
func (t *timeline) written(relay string, beat int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.beats == nil {
		t.beats = map[string][]int64{}
	}
	t.beats[relay] = []int64{beat}
}

// left forgets a relay that has no lanes any more.
func (t *timeline) left(relay string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.beats, relay)
}

// wrote says whether this relay wrote a beat that it finds at its lanes, as far as is known.
func (t *timeline) wrote(relay string, beat int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	beats, known := t.beats[relay]
	return !known || slices.Contains(beats, beat)
}

// answers notes which server answers, or returns false if it is not the one that did before. Where
// another one does, whoever asks first, it is time to ask where the database is.
func (t *timeline) answers(server string, anew bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.known && t.server != server {
		t.placed = time.Time{}
	}
	if anew || !t.known {
		t.server, t.known = server, true
	}
	if t.server == server {
		t.asked = time.Now()
	}
	return t.server == server
}

// answeredWithin says that the server was asked, and was the same, so short a time ago.
func (t *timeline) answeredWithin(d time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return time.Since(t.asked) < d
}

// answering is the server that answered before, empty if that is not known.
func (t *timeline) answering() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.server
}

// requireTimeline returns ErrWentBack unless the same server answers as before, and the relay's
// lanes are as it left them. anew begins with whatever is there.
func (q *Queue) requireTimeline(ctx context.Context, tx bun.IDB, relay string, anew bool) error {
	server, err := q.askServer(ctx, tx)
	if err != nil {
		return err
	}
	if !q.timeline.answers(server, anew) {
		return fmt.Errorf("%w: %s answers in place of %s", ErrWentBack, server,
			q.timeline.answering())
	}
	var beats []int64
	if err := tx.NewRaw("SELECT DISTINCT beat FROM ? WHERE owner = ?", q.Table("outbox_lanes"),
		relay).Scan(ctx, &beats); err != nil {
		return err
	}
	back := slices.ContainsFunc(beats, func(beat int64) bool {
		return !q.timeline.wrote(relay, beat)
	})
	switch {
	case back && !anew:
		return fmt.Errorf("%w: the lease is not as it was renewed last", ErrWentBack)
	case anew:
		return q.requireIncarnation(ctx, tx, back)
	}
	return nil
}

// requireIncarnation draws a new incarnation if the database went back and nobody has drawn one
// since: either it was seen to do so, or its incarnation is one from before the one that was known.
func (q *Queue) requireIncarnation(ctx context.Context, tx bun.IDB, back bool) error {
	known := q.timeline.knows()
	if known.ID == "" {
		return nil
	}
	found, err := q.incarnation(ctx, tx)
	switch {
	case err != nil:
		return err
	case found.ID == known.ID && back:
		return q.draw(ctx, tx, found.ID,
			"the database went back to an earlier state: the lease of a relay was not as it had "+
				"left it")
	case found.ID != known.ID && found.Drawn.Before(known.Drawn):
		return q.draw(ctx, tx, found.ID,
			"the database went back to an earlier state: its incarnation was one from before")
	}
	return nil
}

func (q *Queue) askServer(ctx context.Context, db bun.IDB) (server string, err error) {
	if query := q.dialect.serverQuery(); query != "" {
		err = db.QueryRowContext(ctx, query).Scan(&server)
	}
	return server, err
}

// sameServer is a condition that holds only where the server answers that a relay took lanes from.
// A pool of connections goes from one server to the next without a word.
func (q *Queue) sameServer() string {
	server := q.timeline.answering()
	if server == "" {
		return "1 = 1"
	}
	return q.DB().QueryGen().FormatQuery(q.dialect.server()+" = ?", server)
}

// requireServer returns ErrWentBack where the condition does not hold: it is asked where nothing
// was found.
func (q *Queue) requireServer(ctx context.Context, db bun.IDB) error {
	before := q.timeline.answering()
	if before == "" {
		return nil
	}
	var server string
	if err := db.QueryRowContext(ctx, "SELECT "+q.dialect.server()).Scan(&server); err != nil {
		return err
	}
	if !q.timeline.answers(server, false) {
		return fmt.Errorf("%w: %s answers in place of %s", ErrWentBack, server, before)
	}
	return nil
}
