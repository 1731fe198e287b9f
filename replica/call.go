package replica

import (
	"context"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/internal/store"
)

// callsOutside says that the batch is one key of a HandleFunc model: the inbox hands those out alone.
func (b *batch) callsOutside() bool {
	return b.chains[0].binding != nil && b.chains[0].binding.manner.outside
}

// callAhead calls the HandleFunc for the messages that the gate will let pass, before the transaction that moves the gate.
// The answers are kept, so that trouble with the database does not repeat the calls.
func (b *batch) callAhead(ctx context.Context) error {
	c := b.chains[0]
	if b.knownLocked(c) {
		return nil
	}
	state := store.Applied{Key: c.key, Revision: store.NeverApplied}
	if c.keyed {
		var err error
		if state, err = b.engine.room.applied(ctx, c.key); err != nil {
			return err
		}
	}
	for _, it := range c.items {
		if it.err != nil || !gate(state, it.message).effective() {
			continue
		}
		missing, err := b.missing(ctx, b.engine.room, state, it)
		if err != nil {
			return err
		}
		if missing != nil {
			continue
		}
		b.callOnce(ctx, it)
		if it.callErr == nil || discards(it.callErr) {
			state = settled(state, it.message)
		}
	}
	return nil
}

func (b *batch) callOnce(ctx context.Context, it *item) {
	if it.called {
		return
	}
	model := it.binding.applier.(*eachOutside)
	it.callErr = b.engine.guard(ctx, it.ctx, func(ctx context.Context) error { return model.call(ctx, it.work) })
	it.called = true
}

// callWithoutLedger is the whole of applying where there is no database: every message is handed over, and those that fail
// wait in memory, without an ack.
func (b *batch) callWithoutLedger(ctx context.Context) {
	for _, c := range b.chains {
		for i, it := range c.items {
			err := it.err
			if err == nil {
				it.called = false
				b.callOnce(ctx, it)
				if err = it.callErr; err != nil {
					err = &codeError{err}
				}
			}
			newest := i == len(c.items)-1
			b.answerInMemory(ctx, it, err, newest)
		}
	}
	b.chains = nil
}

func (b *batch) answerInMemory(ctx context.Context, it *item, err error, newest bool) {
	f := failure{it, err, none}
	switch {
	case err == nil:
		b.engine.end(it, Applied, nil)
		return
	case discards(err):
		b.engine.log.Info("message discarded by its handler", it.attrs("error", err)...)
		b.engine.end(it, Discarded, nil)
		return
	case it.strict:
		b.engine.end(it, Returned, err)
		return
	}
	f.patience = patienceWith(err)
	if f.patience != none && !f.exhausted() {
		if !newest {
			b.engine.end(it, Stale, nil) // the newer one, which was handed over after it, supersedes it
			return
		}
		b.waitInMemory(f)
		return
	}
	if err := b.engine.publishDead(ctx, f); err != nil {
		it.outcome, it.result = Returned, err
		go b.engine.endLater(it)
		return
	}
	it.outcome = Parked
	b.failures = []failure{f}
	b.afterFailures()
	b.failures = nil
	b.engine.end(it, Parked, nil)
}

// waitInMemory puts an item back into the inbox after its pause, or ends it when nobody waits for it any more. Half of
// the window may wait so; the rest goes back to the broker, or nothing else would get through.
func (b *batch) waitInMemory(f failure) {
	in := f.row().In
	if _, asked := retryAfter(f.err); !asked {
		f.attempts++
	}
	e := b.engine
	if e.maintenance.inMemory.Add(1) > int64(max(e.config.Window/2, 1)) {
		e.maintenance.inMemory.Add(-1)
		f.outcome, f.result = Returned, f.err
		go e.endLater(f.item)
		return
	}
	e.count(Waiting)
	go func() {
		defer e.maintenance.inMemory.Add(-1)
		timer := time.NewTimer(in)
		defer timer.Stop()
		select {
		case <-timer.C:
			e.inbox.add(f.item)
		case <-f.ctx.Done():
			e.end(f.item, Returned, errors.Join(errStopped, f.err))
		}
	}()
}
