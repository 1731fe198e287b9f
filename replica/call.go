package replica

import (
	"context"
	"errors"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
)

// callsOutside says that the batch is one key of a HandleFunc model: the inbox hands those out
// alone.
func (b *batch) callsOutside() bool {
	return b.chains[0].binding != nil && b.chains[0].binding.manner.outside
}

// callAhead calls the HandleFunc for the messages that the gate will let pass, before the
// transaction that moves the gate. The answers are kept, so that trouble with the database does not
// repeat the calls.
func (b *batch) callAhead(ctx context.Context) error {
	c := b.chains[0]
	if b.knownLocked(c) {
		return nil
	}
	state := applied.Applied{Key: c.key, Revision: applied.NeverApplied}
	if c.keyed {
		var err error
		if state, err = b.engine.room.applied(ctx, c.key); err != nil {
			return err
		}
	}
	for _, d := range c.deliveries {
		if d.err != nil || !gate(state, d.message).effective() {
			continue
		}
		missing, err := b.missing(ctx, b.engine.room, state, d)
		if err != nil {
			return err
		}
		if missing != nil {
			continue
		}
		said, called := b.answerTo(d)
		if !called {
			said = reply{b.engine.call(ctx, d)}
			b.replies[d] = said
		}
		if said.err == nil || discards(said.err) {
			state = settled(state, d.message)
		}
	}
	return nil
}

// answerTo is what a HandleFunc said, in this batch or when the message was tried before.
func (b *batch) answerTo(d *delivery) (said reply, called bool) {
	if d.past.call != nil {
		return *d.past.call, true
	}
	said, called = b.replies[d]
	return said, called
}

// called says that a message's HandleFunc was called.
func (b *batch) called(d *delivery) bool {
	_, called := b.answerTo(d)
	return called
}

// call calls a HandleFunc.
func (e *engine) call(ctx context.Context, d *delivery) error {
	model := d.binding.applier.(*eachOutside)
	return e.handle(ctx, d, func(ctx context.Context) error { return model.call(ctx, d.work) })
}

// callWithoutLedger is the whole of applying where there is no database: every message is handed
// over, and those that fail wait in memory, without an ack.
func (b *batch) callWithoutLedger(ctx context.Context) {
	for _, c := range b.chains {
		c.begin(applied.Applied{})
		for i, a := range c.attempts {
			err := a.err
			if err == nil {
				if err = b.engine.call(ctx, a.delivery); err != nil {
					err = &codeError{err}
				}
			}
			newest := i == len(c.attempts)-1
			b.answerInMemory(ctx, a, err, newest)
		}
	}
	b.chains = nil
}

func (b *batch) answerInMemory(ctx context.Context, a *attempt, err error, newest bool) {
	f := newFailure(a, err, none)
	switch {
	case err == nil:
		b.endAs(a, Applied, nil)
		return
	case discards(err):
		b.engine.log.Info("message discarded by its handler", a.attrs("error", err)...)
		b.endAs(a, Discarded, nil)
		return
	case a.strict:
		b.endAs(a, Returned, err)
		return
	}
	f.class = classOf(err)
	if f.class != none && !f.exhausted() {
		if !newest {
			b.endAs(a, Stale, nil) // the newer one, which was handed over after it, supersedes it
			return
		}
		b.engine.waitInMemory(f)
		return
	}
	if err := b.engine.publishDead(ctx, f); err != nil {
		a.outcome, a.result = Returned, err
		go b.engine.endLater(a)
		return
	}
	a.outcome = DeadLettered
	b.failures = []failure{f}
	b.afterFailures()
	b.failures = nil
	b.engine.end(a)
}

func (b *batch) endAs(a *attempt, outcome Outcome, err error) {
	a.outcome, a.result = outcome, err
	b.engine.end(a)
}

// waitInMemory puts a message back into the inbox after its pause, or ends it when nobody waits for
// it any more. Half of the window may wait so; the rest goes back to the broker, or nothing else
// would get through.
func (e *engine) waitInMemory(f failure) {
	in, p := f.row().In, f.past
	if _, asked := retryAfter(f.err); !asked {
		p.attempts++
	}
	if e.maintenance.inMemory.Add(1) > int64(max(e.config.Window/2, 1)) {
		e.maintenance.inMemory.Add(-1)
		f.outcome, f.result = Returned, f.err
		go e.endLater(f.attempt)
		return
	}
	e.count(Waiting)
	go func() {
		defer e.maintenance.inMemory.Add(-1)
		timer := time.NewTimer(in)
		defer timer.Stop()
		select {
		case <-timer.C:
			e.inbox.add(f.again(p))
		case <-f.ctx.Done():
			f.outcome, f.result = Returned, errors.Join(errStopped, f.err)
			e.end(f.attempt)
		}
	}()
}
