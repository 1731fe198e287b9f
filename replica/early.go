package replica

import (
	"context"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// Handlers see every revision that the master sends. With several processes at one queue a message
// may come before the one that was sent before it, which another process has: then it waits in
// replica_waiting, and whoever applies that one makes it due. Mirrors need not wait, because a
// message carries the whole state; but a revision that was passed over is not called missing before
// it has had the same time to come.

// errEarly is why a message waits for the one before it.
var errEarly = errors.New("the message before it has not come yet")

// missing is the revision that a message has to wait for, because it was sent before it; nil if
// there is none.
func (b *batch) missing(
	ctx context.Context, known deadLetters, state applied.Applied, d *delivery,
) (*int64, error) {
	m := d.message
	switch {
	case b.engine.config.WaitForMissing < 0, !d.binding.manner.inTurn, d.strict, b.called(d),
		d.overdue():
		return nil, nil
	case m.Signal == envelope.Sync, m.After == nil, *m.After >= m.Revision:
		return nil, nil
	}
	// One that is a dead letter does not come; but what was sent before it may.
	for before := *m.After; before > state.Revision; {
		dead, after, err := known.deadLetterAfter(ctx, m.Model, m.Key, before)
		switch {
		case err != nil:
			return nil, err
		case !dead:
			return &before, nil
		case after == nil || *after >= before:
			return nil, nil
		}
		before = *after
	}
	return nil, nil
}

// await lets a message wait for a revision.
func (b *batch) await(a *attempt, missing *int64) {
	f := newFailure(a, errEarly, early)
	if f.awaits == nil {
		f.gapIn = b.engine.config.WaitForMissing
	}
	f.awaits = missing
	b.failures = append(b.failures, f)
}

// passedOver notes what was passed over, and what came after all, in the batch's transaction.
func (b *batch) passedOver(ctx context.Context, tx transaction) error {
	var passed []applied.Passed
	var late []applied.Late
	b.gaps = nil
	for _, c := range b.chains {
		for _, s := range c.passed {
			switch {
			case s.outcome != AppliedGap || s.message.Signal == envelope.Sync:
			case b.engine.config.WaitForMissing < 0 || s.overdue() || s.strict:
				b.gaps = append(b.gaps, gapOf(c.key, s))
			default:
				g := gapOf(c.key, s)
				passed = append(passed, applied.Passed{Key: c.key, Had: g.Had, Missing: g.Missing,
					Applied: g.Applied})
			}
		}
		for _, a := range c.attempts {
			if a.outcome == Stale && a.message != nil && a.message.Signal != envelope.Sync &&
				c.keyed {
				late = append(late, lateOf(c.key, a.message))
			}
		}
	}
	if len(passed) == 0 && len(late) == 0 {
		return nil
	}
	note := func(tx transaction) error {
		if err := tx.addPassed(ctx, passed, b.engine.config.WaitForMissing); err != nil {
			return err
		}
		return tx.closePassed(ctx, late)
	}
	if !b.brief {
		return note(tx)
	}
	err := tx.savepoint(ctx, note)
	if db.LockTimedOut(err) {
		return nil // a gap too many in the log is better than a key that waits
	}
	return err
}

func gapOf(key db.Key, s step) Gap {
	g := Gap{
		Model: key.Model, Key: key.Key,
		Had: s.before.Revision, Missing: s.message.Revision - 1, Applied: s.message.Revision,
	}
	if s.message.After != nil {
		g.Missing = *s.message.After
	}
	return g
}

func lateOf(key db.Key, m *envelope.Message) applied.Late {
	l := applied.Late{Key: key, Revision: m.Revision, After: m.Revision - 1}
	if m.After != nil {
		l.After = *m.After
	}
	return l
}

// tellGaps tells the hook and the log of what is missing.
func (e *engine) tellGaps(gaps []Gap) {
	for _, g := range gaps {
		e.counts.gaps.Add(1)
		e.lacks(mirrored.Lack{Model: g.Model, Key: g.Key, Above: applied.NeverApplied,
			Cause: mirrored.Gap})
		if e.gaps.first(db.Key{Model: g.Model, Key: g.Key}) {
			e.log.Warn("a message is missing: applied a later one",
				"model", g.Model, "key", g.Key, "had", g.Had, "missing", g.Missing, "applied", g.Applied)
		}
		if e.config.OnGap != nil {
			e.tellGap(g)
		}
	}
}

func (e *engine) tellGap(g Gap) {
	err := e.guard(context.Background(), nil, func(ctx context.Context) error {
		e.config.OnGap(ctx, g)
		return nil
	})
	if err != nil {
		e.log.Error("OnGap failed", "model", g.Model, "key", g.Key, "error", err)
	}
}

// lookForGaps tells of what was passed over and has not come in time.
func (e *engine) lookForGaps(ctx context.Context) {
	const page = 100
	for every := e.config.WaitForMissing / 4; e.config.WaitForMissing >= 0; {
		timer := time.NewTimer(min(max(every, 10*time.Millisecond), 15*time.Second))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		for more := true; more; {
			taken, err := e.room.takePassed(ctx, page)
			switch {
			case err == nil:
				e.trouble.over("gaps")
			case ctx.Err() == nil && e.trouble.worth("gaps", err):
				e.log.Warn("cannot look for missing messages", "error", err)
			}
			gaps := make([]Gap, len(taken))
			for i, p := range taken {
				gaps[i] = Gap{p.Model, p.Key.Key, p.Had, p.Missing, p.Applied}
			}
			e.tellGaps(gaps)
			more = len(taken) == page
		}
	}
}
