package replica

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/store"
)

// write applies the chains of mirrors and batch handlers: deletes first, so that unique values are free, children before
// their parents; then saves, parents before their children.
func (b *batch) write(ctx context.Context, tx bun.Tx, chains []*chain) error {
	rows := map[*binding][][]*row{}
	works := map[*binding][]any{}
	for _, c := range chains {
		switch {
		case len(c.passed) == 0:
		case c.binding.mirror != nil:
			rows[c.binding] = append(rows[c.binding], c.rows())
		case c.binding.handleBatch != nil:
			works[c.binding] = append(works[c.binding], c.last().work)
		}
	}
	for round := 0; ; round++ {
		more := false
		for _, model := range slices.Backward(b.sorted) {
			deleted := pick(rows[model], round, true)
			if err := model.remove(ctx, tx, deleted); err != nil {
				return err
			}
			more = more || len(deleted) > 0
		}
		for _, model := range b.sorted {
			saved := pick(rows[model], round, false)
			if err := model.save(ctx, tx, saved); err != nil {
				return err
			}
			more = more || len(saved) > 0
		}
		if !more {
			break
		}
	}
	for _, model := range b.sorted {
		if len(works[model]) == 0 {
			continue
		}
		// In a savepoint also when nothing is wrong: it is its release that notices a handler that swallowed an error.
		err := inSavepoint(ctx, tx, func(tx bun.Tx) error {
			return b.guard(ctx, nil, func(ctx context.Context) error { return model.handleBatch(ctx, tx, works[model]) })
		})
		if err != nil {
			return model.handlerError(err)
		}
	}
	return nil
}

// pick are the rows of a round that are, or are not, deleted.
func pick(chains [][]*row, round int, deleted bool) (picked []*row) {
	for _, rows := range chains {
		if round < len(rows) && rows[round].deleted == deleted {
			picked = append(picked, rows[round])
		}
	}
	return picked
}

func (b *binding) save(ctx context.Context, tx bun.Tx, rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	return b.mirror.save(ctx, tx, rows)
}

func (b *binding) remove(ctx context.Context, tx bun.Tx, rows []*row) error {
	if len(rows) == 0 {
		return nil
	}
	return b.mirror.remove(ctx, tx, rows)
}

// codeError is an error of the service's own code, after which the transaction still works.
type codeError struct{ err error }

func (e *codeError) Error() string { return e.err.Error() }
func (e *codeError) Unwrap() error { return e.err }

func (b *binding) handlerError(err error) error {
	if patienceWithHandler(err) == outage {
		return err
	}
	return &codeError{err}
}

// guard calls the service's code within its time, with the values of a message's context, and turns a panic into an error.
func (r *Replica) guard(ctx, values context.Context, call func(context.Context) error) (err error) {
	if values != nil {
		ctx = withValues(ctx, values)
	}
	ctx, cancel := context.WithTimeout(ctx, r.config.HandlerTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return call(ctx)
}

// applyIsolated is the careful way: what fails is found and set aside, the rest is applied.
func (b *batch) applyIsolated(ctx context.Context, tx bun.Tx) error {
	var todo, handled []*chain
	for _, c := range b.chains {
		switch {
		case c.binding == nil || !c.keyed:
		case c.binding.handle != nil || c.binding.call != nil:
			handled = append(handled, c)
		case len(c.passed) > 0:
			todo = append(todo, c)
		}
	}
	b.sortByModel(todo)
	for len(todo) > 0 {
		failed, err := b.split(ctx, tx, todo)
		if err != nil {
			return err
		}
		todo = b.afterRound(todo, failed)
	}
	if err := b.handleEach(ctx, tx, handled); err != nil {
		return err
	}
	return b.settleLedger(ctx, tx)
}

// afterRound decides what to do about the chains that failed. What stood in their way may be among those that did not,
// so each gets one more chance; then its last message fails, and the one before it is applied in its stead.
func (b *batch) afterRound(todo []*chain, failed map[*chain]error) (next []*chain) {
	for _, c := range todo {
		err := failed[c]
		if err == nil {
			continue
		}
		if !c.again && len(failed) < len(todo) {
			c.again = true
			next = append(next, c)
			continue
		}
		b.fail(c.drop().item, err)
		if len(c.passed) > 0 {
			next = append(next, c)
		}
	}
	return next
}

// sortByModel puts chains into the order in which their models are written, so that halves of the list succeed or fail
// for the same reasons.
func (b *batch) sortByModel(chains []*chain) {
	position := make(map[*binding]int, len(b.sorted))
	for i, model := range b.sorted {
		position[model] = i
	}
	slices.SortStableFunc(chains, func(x, y *chain) int { return position[x.binding] - position[y.binding] })
}

// split writes the chains, and finds those that cannot be written by writing halves. The error is an outage.
func (b *batch) split(ctx context.Context, tx bun.Tx, chains []*chain) (map[*chain]error, error) {
	err := inSavepoint(ctx, tx, func(tx bun.Tx) error { return b.write(ctx, tx, chains) })
	switch {
	case err == nil:
		return nil, nil
	case patienceWith(err) == outage:
		return nil, err
	}
	failed := map[*chain]error{}
	if isForeignKey(err) {
		// All that lack their parents fail for one reason, and one query finds them: halving would find them one by one.
		orphans, orphansErr := b.orphans(ctx, tx, chains, err)
		if orphansErr != nil {
			return nil, orphansErr
		}
		for c, err := range orphans {
			failed[c] = err
		}
		chains = slices.DeleteFunc(slices.Clone(chains), func(c *chain) bool { return failed[c] != nil })
		if len(orphans) > 0 {
			if len(chains) == 0 {
				return failed, nil
			}
			more, err := b.split(ctx, tx, chains)
			merge(failed, more)
			return failed, err
		}
	}
	if len(chains) == 1 {
		failed[chains[0]] = err
		return failed, nil
	}
	for _, half := range [][]*chain{chains[:len(chains)/2], chains[len(chains)/2:]} {
		more, err := b.split(ctx, tx, half)
		if err != nil {
			return nil, err
		}
		merge(failed, more)
	}
	return failed, nil
}

func merge(into, from map[*chain]error) {
	for c, err := range from {
		into[c] = err
	}
}

// handleEach calls the handlers one by one, each message in a savepoint of its own, and as long as there is time.
func (b *batch) handleEach(ctx context.Context, tx bun.Tx, chains []*chain) error {
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
		b.failures = slices.DeleteFunc(b.failures, func(f failure) bool { return slices.Contains(c.items, f.item) })
	}
}

// handleChain lets the gate decide anew before each message: one that failed has not moved it.
func (b *batch) handleChain(ctx context.Context, tx bun.Tx, c *chain) error {
	c.state, c.passed = c.before, nil
	for _, it := range c.items {
		if it.err != nil {
			continue // fold has refused it, or the gate has
		}
		outcome := gate(c.state, it.message)
		if !outcome.effective() {
			it.outcome = outcome
			continue
		}
		err := b.handleOne(ctx, tx, it)
		discarded := discards(err)
		switch {
		case err == nil:
			c.pass(it, outcome)
		case discarded:
			b.log.Info("message discarded by its handler", it.attrs("error", err)...)
			c.pass(it, Discarded)
		case patienceWith(err) == outage:
			return err
		default:
			b.fail(it, err)
		}
	}
	return nil
}

func (b *batch) handleOne(ctx context.Context, tx bun.Tx, it *item) error {
	if it.binding.call != nil {
		if !it.called {
			// The ledger said otherwise when the calls were made, and says now that this one is due.
			return &outageError{fmt.Errorf("model %q key %q: %w", it.message.Model, it.message.Key, store.ErrOvertaken)}
		}
		if it.callErr == nil {
			return nil
		}
		return &codeError{it.callErr}
	}
	if it.callErr != nil { // it took too long and broke the transaction before this one
		return &codeError{it.callErr}
	}
	var timedOut error
	err := inSavepoint(ctx, tx, func(tx bun.Tx) error {
		return b.guard(ctx, it.ctx, func(ctx context.Context) error {
			err := it.binding.handle(ctx, tx, it.work)
			timedOut = context.Cause(ctx)
			return err
		})
	})
	if err == nil {
		return nil
	}
	if patienceWithHandler(err) == outage && timedOut != nil && ctx.Err() == nil {
		// A statement was cut off, and the connection with it. Next time the message fails without being tried.
		it.callErr = fmt.Errorf("handler timeout (%s): %w", b.config.HandlerTimeout, err)
	}
	return it.binding.handlerError(err)
}
