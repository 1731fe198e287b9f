package relay

import (
	"context"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
)

// results is what became of published messages, and the lanes, with their epochs, under which they
// were published.
type results struct {
	queue.Outcome
	lanes []queue.Lane
}

func (r *results) empty() bool { return len(r.Sent)+len(r.Failed)+len(r.Dead) == 0 }

// heldPause is how long what others hold locked is left alone: nobody waits for it.
const heldPause = time.Second

// few says that what is open is not worth a statement yet.
func (r *results) few(cfg Config) bool {
	return len(r.Sent) < cfg.BatchSize/10 && len(r.Failed)+len(r.Dead) == 0
}

// A statement that removes one row costs the database as much as one that removes a hundred, and
// nobody waits for it. So while few messages are open it takes one part in finishShare of the time:
// where the database is busy, there are fewer of them. What is confirmed and not removed is sent
// again after a crash.
const (
	minFinishPause = 10 * time.Millisecond
	maxFinishPause = 100 * time.Millisecond
	finishShare    = 20
)

// writeDown records what became of published messages, while more of them are published. On error
// they stay open: the next try writes the same, instead of publishing the same again.
func (r *Relay) writeDown(work context.Context, now time.Time) {
	if r.tasks.finished || r.database.retry.After(now) {
		return
	}
	// Not when lanes are about to change hands: it ends with the tenure, and would keep that going.
	if !r.held.empty() && !now.Before(r.heldAt) && !r.changing(now) {
		held := r.held
		r.held = results{}
		r.finish(work, held, r.queue.FinishFree)
		return
	}
	if r.open.empty() || r.open.few(r.cfg) && now.Before(r.tasks.finishAt) {
		return
	}
	done := r.open
	r.open = results{}
	r.finish(work, done, r.queue.Finish)
}

// finish is one writing down, by write. What others hold locked is tried again on its own, so that
// it holds up nothing else.
func (r *Relay) finish(
	work context.Context, done results,
	write func(context.Context, string, []queue.Lane, queue.Outcome) error,
) {
	r.tasks.finished = true
	tenure := r.lease.tenure
	r.tasks.start(func() func() {
		// a database that hangs is one that is away
		ctx, cancel := context.WithTimeout(work, r.cfg.LeaseTTL)
		defer cancel()
		start := time.Now()
		err := write(ctx, r.cfg.ID, done.lanes, done.Outcome)
		took := time.Since(start)
		return func() {
			r.tasks.finished = false
			r.tasks.finishAt = time.Now().Add(min(max(minFinishPause, finishShare*took),
				maxFinishPause))
			var locked *queue.UnfinishedError
			if errors.As(err, &locked) { // it is no outage
				err = nil
			}
			ok := r.answered("finish", err)
			if tenure != r.lease.tenure { // it was lost meanwhile, and everything with it
				return
			}
			if locked != nil {
				r.held.prepend(results{locked.Left, done.lanes})
				r.heldAt = time.Now().Add(heldPause)
				done.Outcome = done.Without(locked.Left)
			}
			if !ok {
				r.open.prepend(done)
				return
			}
			r.flow.written(done.Outcome)
			for _, f := range done.Failed {
				r.reader.dueIn(f.Wait)
			}
			if len(done.Dead) > 0 {
				r.reader.hurry() // for what waits behind them
			}
		}
	})
}

// prepend puts what could not be written down back in front of what has been published meanwhile.
func (r *results) prepend(done results) {
	r.lanes = done.lanes
	r.Sent = append(done.Sent, r.Sent...)
	r.Failed = append(done.Failed, r.Failed...)
	r.Dead = append(done.Dead, r.Dead...)
}
