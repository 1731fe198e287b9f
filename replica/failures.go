package replica

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/mirrored"
)

// fail notes that a message cannot be applied in this transaction.
func (b *batch) fail(a *attempt, err error) {
	a.failed = true
	b.failures = append(b.failures, newFailure(a, a.about(err), classOf(err)))
}

// keepFailures writes what becomes of the messages that failed, in the batch's own transaction:
// they wait, or they are dead letters. What waited and does no more is removed.
func (b *batch) keepFailures(ctx context.Context, tx transaction) error {
	var dead, aside, inOrder []failure
	wait := map[db.Key]failure{}
	for _, f := range b.failures {
		switch {
		case f.strict && f.class == busy:
			b.holdStrict(f)
		case f.strict:
			f.outcome, f.result = Returned, f.err
		case f.class == busy:
			aside = append(aside, f)
		case f.class != early && (f.class == none || f.exhausted()):
			f.outcome = DeadLettered
			dead = append(dead, f)
		case f.class == early || f.isOrdered():
			f.outcome = Waiting
			inOrder = append(inOrder, f)
		default:
			standForBoth(wait, f)
		}
	}
	if err := b.removeClaimed(ctx, tx, aside); err != nil {
		return err
	}
	if err := b.keepAside(ctx, tx, aside); err != nil {
		return err
	}
	if len(inOrder) > 0 {
		if err := tx.addWaiting(ctx, waitingRows(inOrder)); err != nil {
			return err
		}
	}
	if err := b.keepWaiting(ctx, tx, wait); err != nil {
		return err
	}
	if err := b.keepDead(ctx, tx, dead); err != nil {
		return err
	}
	return b.releaseNext(ctx, tx, dead)
}

// isOrdered says that a message waits for its own sake, however many newer ones there are: it knows
// the one before it, and so do they.
func (f failure) isOrdered() bool {
	return f.binding.manner.inTurn && f.message.After != nil && f.message.Signal != envelope.Sync
}

// standForBoth lets the newer of two messages of a key wait for both.
func standForBoth(wait map[db.Key]failure, f failure) {
	f.outcome = Waiting
	if other, ok := wait[f.key]; ok {
		if !gate(other.state(), f.message).effective() {
			f.outcome = Stale
			return
		}
		other.outcome = Stale
	}
	wait[f.key] = f
}

// waitingRows are failures as they wait; of one message that came twice only one.
func waitingRows(failures []failure) []applied.Waiting {
	type place struct {
		key      db.Key
		revision int64
	}
	at := make(map[place]int, len(failures))
	rows := make([]applied.Waiting, 0, len(failures))
	for _, f := range failures {
		w := f.row()
		p := place{w.Key, w.Revision}
		if i, again := at[p]; again {
			rows[i] = w
			continue
		}
		at[p] = len(rows)
		rows = append(rows, w)
	}
	return rows
}

// releaseNext makes due what waits for the messages that have been applied, or never will be.
func (b *batch) releaseNext(ctx context.Context, tx transaction, dead []failure) error {
	reached := map[db.Key]int64{}
	for _, c := range b.chains {
		if c.keyed && c.binding != nil && c.binding.manner.inTurn && len(c.passed) > 0 {
			reached[c.key] = c.state.Revision
		}
	}
	for _, f := range dead {
		if f.keyed && f.binding.manner.inTurn {
			reached[f.key] = max(reached[f.key], f.message.Revision)
		}
	}
	if len(reached) == 0 || b.engine.config.WaitForMissing < 0 {
		return nil
	}
	n, err := tx.releaseNext(ctx, reached)
	b.released = n > 0
	return err
}

// exhausted says that the attempt that just failed was the last.
func (f failure) exhausted() bool {
	_, asked := retryAfter(f.err)
	return f.class == limited && !asked && f.past.attempts+1 >= f.binding.retry.Attempts
}

// removeClaimed deletes the rows of the messages that were tried again; who has to wait longer is
// written anew. Those of aside are its own affair.
func (b *batch) removeClaimed(ctx context.Context, tx transaction, aside []failure) error {
	skip := make(map[*attempt]bool, len(aside))
	for _, f := range aside {
		skip[f.attempt] = true
	}
	var claimed []applied.Applied
	for _, c := range b.chains {
		for _, a := range c.attempts {
			if a.past.claimed != nil && !skip[a] && !slices.Contains(b.deferred, c) {
				claimed = append(claimed, *a.past.claimed)
			}
		}
	}
	if len(claimed) == 0 {
		return nil
	}
	return tx.removeWaiting(ctx, claimed)
}

// keepWaiting adds to what waits, unless something newer of the key waits already.
func (b *batch) keepWaiting(ctx context.Context, tx transaction, wait map[db.Key]failure) error {
	if len(wait) == 0 {
		return nil
	}
	there, err := tx.waitingFor(ctx, slices.Collect(maps.Keys(wait)))
	if err != nil {
		return err
	}
	rows := make([]applied.Waiting, 0, len(wait))
	var replaced []db.Key
	for key, f := range wait {
		if other, ok := there[key]; ok {
			if !gate(other, f.message).effective() {
				f.outcome = Stale
				continue
			}
			replaced = append(replaced, key)
		}
		rows = append(rows, f.row())
	}
	if len(rows) == 0 {
		return nil
	}
	if err := tx.forgetWaiting(ctx, replaced); err != nil {
		return err
	}
	return tx.addWaiting(ctx, rows)
}

func (f failure) row() applied.Waiting {
	w := applied.Waiting{
		Applied: f.state(), Body: f.body, Metadata: f.headers, Attempts: f.past.attempts,
		Error: f.err.Error(),
	}
	w.Awaits, w.GapIn, w.Since = f.awaits, f.gapIn, f.past.since
	after, asked := retryAfter(f.err)
	switch {
	case f.class == early:
		w.In = f.gapIn
	case f.class == busy:
		w.In = spread(lockPause)
	case asked:
		w.In = after
	default:
		w.Attempts++
		w.In = f.binding.retry.pause(w.Attempts)
	}
	var orphan *orphanError
	if errors.As(f.err, &orphan) {
		w.Parent = orphan.parent
	}
	return w
}

// pause after so many failures: twice as long each time, spread by half so that what failed
// together comes back apart.
func (p RetryPolicy) pause(failures int) time.Duration {
	d := p.Max
	if shift := failures - 1; shift < 32 && p.Min<<shift>>shift == p.Min {
		d = min(p.Min<<shift, p.Max)
	}
	return spread(d)
}

// afterFailures counts and logs, after the commit.
func (b *batch) afterFailures() {
	waits := false
	for _, f := range b.failures {
		switch f.outcome {
		case DeadLettered:
			reason := Exhausted
			if f.class == none {
				reason = reasonOf(f.err)
			}
			b.engine.counts.reasons[reason].Add(1)
			b.engine.log.Error("message is a dead letter",
				f.attrs("reason", reason.String(), "error", f.err)...)
			b.engine.lacksNewer(f, reason)
		case Waiting:
			waits = true
			if f.class == busy || f.class == early {
				break // the first is said elsewhere, and the second is nobody's fault
			}
			b.engine.log.Warn("message waits for another try",
				f.attrs("attempts", f.past.attempts+1, "error", f.err)...)
		}
		var orphan *orphanError
		if errors.As(f.err, &orphan) && orphan.parent != (db.Key{}) {
			b.engine.maintenance.orphans.Store(true)
			b.engine.lacks(mirrored.Lack{
				Model: orphan.parent.Model, Key: orphan.parent.Key, Above: applied.NeverApplied,
				Cause: mirrored.MissingParent,
			})
		}
	}
	if waits || b.released {
		b.engine.maintenance.nudge()
	}
}
