package replica

import (
	"context"
	"slices"

	"github.com/cqrsync/cqrsync/internal/db"
)

// applyIsolated is the careful way: what fails is found and set aside, the rest is applied.
func (b *batch) applyIsolated(ctx context.Context, tx transaction) error {
	var remaining, handled []*chain
	for _, c := range b.chains {
		switch {
		case c.binding == nil || !c.keyed || c.unread:
		case c.binding.manner.inTurn:
			handled = append(handled, c)
		case len(c.passed) > 0:
			remaining = append(remaining, c)
		}
	}
	b.sortByModel(remaining)
	for len(remaining) > 0 {
		failed, err := b.find(ctx, tx, remaining)
		if err == nil {
			err = b.together(ctx, tx, failed)
		}
		if err != nil {
			return err
		}
		remaining = b.afterRound(remaining, failed)
	}
	if err := b.handleEach(ctx, tx, handled); err != nil {
		return err
	}
	return b.settleLedger(ctx, tx)
}

// afterRound decides what to do about the chains that failed. What stood in their way may be among
// those that did not, so each gets one more chance; then its last message fails, and the gate
// decides about the others without it.
func (b *batch) afterRound(remaining []*chain, failed map[*chain]error) (next []*chain) {
	for _, c := range remaining {
		err := failed[c]
		if err == nil {
			continue
		}
		if isLocked(err) {
			var attempts []*attempt
			for len(c.passed) > 0 {
				attempts = append(attempts, c.drop().attempt)
			}
			b.setAside(attempts, err)
			continue
		}
		// its HandleBatch, which has written nothing of it: the revision moves on
		if discards(err) {
			last := c.last()
			last.outcome = Discarded
			b.engine.log.Info("message discarded by its handler", last.attrs("error", err)...)
			continue
		}
		if !c.again && len(failed) < len(remaining) {
			c.again = true
			next = append(next, c)
			continue
		}
		b.fail(c.last(), err)
		// what was nothing beside it may be something without it
		b.failures = append(b.failures, c.decide()...)
		if len(c.passed) > 0 {
			next = append(next, c)
		}
	}
	return next
}

// sortByModel puts chains into the order in which their models are written, so that halves of the
// list succeed or fail for the same reasons.
func (b *batch) sortByModel(chains []*chain) {
	position := make(map[*binding]int, len(b.sorted))
	for i, model := range b.sorted {
		position[model] = i
	}
	slices.SortStableFunc(chains, func(x, y *chain) int {
		return position[x.binding] - position[y.binding]
	})
}

// find writes the chains, and returns those that cannot be written. The error is an outage.
func (b *batch) find(
	ctx context.Context, tx transaction, chains []*chain,
) (map[*chain]error, error) {
	if b.brief {
		return b.findBriefly(ctx, tx, chains)
	}
	return b.split(ctx, tx, chains)
}

// split writes the chains, and finds those that cannot be written by writing halves. The error is
// an outage.
func (b *batch) split(
	ctx context.Context, tx transaction, chains []*chain,
) (map[*chain]error, error) {
	failed := map[*chain]error{}
	err := tx.savepoint(ctx, func(tx transaction) error { return b.write(ctx, tx, chains) })
	switch {
	case err == nil:
		return failed, nil
	case db.LockTimedOut(err) && b.brief:
		for _, c := range chains {
			failed[c] = err
		}
		return failed, nil
	case classOf(err) == outage:
		return nil, err
	}
	if isForeignKey(err) {
		// All that lack their parents fail for one reason, and one query finds them: halving would
		// find them one by one.
		orphans, orphansErr := b.orphans(ctx, tx, chains, err)
		if orphansErr != nil {
			return nil, orphansErr
		}
		for c, err := range orphans {
			failed[c] = err
		}
		chains = slices.DeleteFunc(slices.Clone(chains), func(c *chain) bool {
			return failed[c] != nil
		})
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
