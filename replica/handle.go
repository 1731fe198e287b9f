package replica

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// codeError is an error of the service's own code, after which the transaction still works.
type codeError struct{ err error }

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

func handlerError(err error) error {
	if classOfHandlers(err) == outage {
		return err
	}
	return &codeError{err}
}

// guard calls the service's code within its time, with the values of a message's context, and turns
// a panic into an error.
func (e *engine) guard(ctx, values context.Context, call func(context.Context) error) (err error) {
	if values != nil {
		ctx = withValues(ctx, values)
	}
	ctx, cancel := context.WithTimeout(ctx, e.config.HandlerTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return call(ctx)
}

// handleTogether calls a HandleBatch. It does so in a savepoint also where nothing is wrong: the
// savepoint's release is what notices a handler that swallowed an error.
func (b *batch) handleTogether(
	ctx context.Context, tx transaction, h *newestTogether, attempts []*attempt,
) error {
	works := make([]any, len(attempts))
	for i, a := range attempts {
		if err := b.broken[a.delivery]; err != nil { // it broke the transaction before this one
			return &codeError{err}
		}
		works[i] = a.work
	}
	var timedOut error
	err := tx.savepoint(ctx, func(tx transaction) error {
		return b.engine.guard(ctx, nil, func(ctx context.Context) error {
			err := h.handle(ctx, tx.service(), works)
			timedOut = context.Cause(ctx)
			return err
		})
	})
	if err == nil {
		return nil
	}
	if timedOut != nil && ctx.Err() == nil {
		for _, a := range attempts {
			b.brokenBy(a.delivery, err)
		}
	}
	return handlerError(err)
}

// brokenBy remembers that a handler's statement was cut off by its timeout, and the connection with
// it: in the next transaction the message fails without being tried.
func (b *batch) brokenBy(d *delivery, err error) {
	if classOfHandlers(err) == outage {
		b.broken[d] = fmt.Errorf("handler timeout (%s): %w", b.engine.config.HandlerTimeout, err)
	}
}

// handleEach calls the handlers one by one, each message in a savepoint of its own, and as long as
// there is time.
func (b *batch) handleEach(ctx context.Context, tx transaction, chains []*chain) error {
	start := time.Now()
	for i, c := range chains {
		if i > 0 && time.Since(start) > handlerBudget {
			b.deferRest(chains[i:])
			return nil
		}
		if err := b.handleChain(ctx, tx, c); err != nil {
			return err
		}
	}
	return nil
}

// deferRest leaves chains to the next transaction, with nothing decided about them.
func (b *batch) deferRest(chains []*chain) {
	b.deferred = chains
	for _, c := range chains {
		c.passed = nil
		b.failures = slices.DeleteFunc(b.failures, func(f failure) bool {
			return slices.Contains(c.attempts, f.attempt)
		})
	}
}

// handleChain lets the gate decide anew before each message: one that failed has not moved it.
func (b *batch) handleChain(ctx context.Context, tx transaction, c *chain) error {
	c.state, c.passed = c.before, nil
	model := c.binding.applier.(inTurn)
	for i, a := range c.attempts {
		if a.err != nil {
			continue // fold has refused it, or the gate has
		}
		outcome := gate(c.state, a.message)
		if !outcome.effective() {
			c.reject(a, outcome)
			continue
		}
		missing, err := b.missing(ctx, tx, c.state, a.delivery)
		switch {
		case err != nil:
			return err
		case missing != nil:
			b.await(a, missing)
			continue
		case a.overdue() && *a.past.awaits > c.state.Revision:
			outcome = AppliedGap
		}
		err = model.apply(ctx, b, tx, a)
		discarded := discards(err)
		switch {
		case db.LockTimedOut(err):
			b.setAside(undecided(c.attempts[i:]), err)
			return nil
		case err == nil:
			c.pass(a, outcome)
		case discarded:
			b.engine.log.Info("message discarded by its handler", a.attrs("error", err)...)
			c.pass(a, Discarded)
		case classOf(err) == outage:
			return err
		default:
			b.fail(a, err)
		}
	}
	return nil
}

// undecided are the attempts that fold has not refused.
func undecided(attempts []*attempt) (some []*attempt) {
	for _, a := range attempts {
		if a.err == nil {
			some = append(some, a)
		}
	}
	return some
}

// apply gives the answer of the call that was made before the transaction.
func (*eachOutside) apply(_ context.Context, b *batch, _ transaction, a *attempt) error {
	said, called := b.answerTo(a.delivery)
	switch {
	case !called:
		// The ledger said otherwise when the calls were made, and says now that this one is due.
		return &outageError{fmt.Errorf("model %q key %q: %w", a.message.Model, a.message.Key,
			applied.ErrOvertaken)}
	case said.err == nil:
		return nil
	default:
		return &codeError{said.err}
	}
}

// apply calls a Handle in a savepoint of its own.
func (h *eachInTransaction) apply(ctx context.Context, b *batch, tx transaction, a *attempt) error {
	// it took too long and broke the transaction before this one
	if err := b.broken[a.delivery]; err != nil {
		return &codeError{err}
	}
	var timedOut error
	err := tx.savepoint(ctx, func(tx transaction) error {
		return b.engine.handle(ctx, a.delivery, func(ctx context.Context) error {
			err := h.handle(ctx, tx.service(), a.work)
			timedOut = context.Cause(ctx)
			return err
		})
	})
	if err == nil {
		return nil
	}
	if timedOut != nil && ctx.Err() == nil {
		b.brokenBy(a.delivery, err)
	}
	return handlerError(err)
}
