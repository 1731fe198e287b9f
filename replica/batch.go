package replica

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/store"
)

// batch is what one transaction takes: the chains of messages of some keys, and what becomes of them.
//
// The first try is the cheap one: read the ledger, settle it, write the rows of each model with one statement, commit.
// Where it fails, the careful one follows: lock the ledger, find the messages at fault with savepoints, settle the rest,
// keep the failed ones for later or as dead letters, all in one transaction. So a message that fails never fails its
// neighbours, and an ack always stands for a commit.
type batch struct {
	*Replica
	chains   []*chain
	careful  bool
	failures []failure
	sorted   []*binding      // models, parents before their children
	isParent map[string]bool // models that a mirror's foreign key points to
	deferred []*chain        // for a transaction of their own, because this one takes long enough
}

// failure is a message that cannot be applied now.
type failure struct {
	*item
	err      error
	patience patience
}

// handlerBudget is how long handlers may go on in one transaction: slow ones do not keep the locks of a whole batch.
const handlerBudget = 200 * time.Millisecond

// settle ends every message of the slots.
func (r *Replica) settle(slots []*slot) {
	b := &batch{Replica: r}
	for _, s := range slots {
		if items := r.inbox.items(s); len(items) > 0 {
			b.chains = append(b.chains, newChain(s.key, items))
		}
	}
	pause := r.backOff()
	for {
		b.dropStopped()
		if len(b.chains) == 0 {
			return
		}
		if err := b.try(); err != nil {
			b.pause(pause, err)
			continue
		}
		b.finish()
		pause.Reset()
	}
}

// backOff doubles the pause each time, spread by half to keep many consumers from coming back at once.
func (r *Replica) backOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     20 * time.Millisecond,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         5 * time.Second,
	}
}

// pause waits until the database may work again, or until nobody waits for the batch's first message.
func (b *batch) pause(pause *backoff.ExponentialBackOff, err error) {
	d := pause.NextBackOff()
	if !store.Conflicted(err) {
		b.log.Warn("batch not applied; trying again", "messages", len(b.chains), "in", d, "error", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.chains[0].items[0].ctx.Done():
	}
}

// dropStopped ends the messages whose deliverer waits no more: the broker has them again.
func (b *batch) dropStopped() {
	kept := b.chains[:0]
	for _, c := range b.chains {
		c.items = slices.DeleteFunc(c.items, func(it *item) bool {
			if it.ctx.Err() == nil {
				return false
			}
			b.end(it, Returned, fmt.Errorf("%w: %w", errStopped, context.Cause(it.ctx)))
			return true
		})
		if len(c.items) > 0 {
			kept = append(kept, c)
		}
	}
	b.chains = kept
}

// try applies the batch, or reports trouble that is none of its messages' fault.
func (b *batch) try() error {
	ctx, cancel := b.timeout()
	defer cancel()
	if b.store == nil {
		b.callWithoutLedger(ctx)
		return nil
	}
	if err := b.loadShapes(ctx); err != nil {
		return err
	}
	if b.callsOutside() {
		if err := b.callAhead(ctx); err != nil {
			return err
		}
	}
	if !b.needsCare() {
		err := b.transact(ctx, false)
		if err == nil || patienceWith(err) == outage && !errors.Is(err, store.ErrOvertaken) {
			return err
		}
	}
	return b.transact(ctx, true)
}

// timeout bounds a try, and is not cut short when the consumer is stopped: cut off, it would be done again from the
// start. Handlers have a shorter one of their own.
func (r *Replica) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 2*r.config.HandlerTimeout+time.Minute)
}

// needsCare says that the cheap way does not do: a handler that fails after its neighbours would undo their work, which
// may have had effects elsewhere.
func (b *batch) needsCare() bool {
	return slices.ContainsFunc(b.chains, func(c *chain) bool {
		return c.binding != nil && (c.binding.handle != nil || c.binding.call != nil)
	})
}

// transact is the one transaction that P6 rests on: gate, rows and ledger, and what becomes of the messages that fail.
func (b *batch) transact(ctx context.Context, careful bool) error {
	b.careful, b.failures, b.deferred = careful, nil, nil
	return b.db.RunInTx(ctx, b.store.BatchOptions(), func(ctx context.Context, tx bun.Tx) error {
		if err := b.fold(ctx, tx); err != nil {
			return err
		}
		if err := b.at("folded"); err != nil {
			return err
		}
		apply := b.applyAll
		if careful {
			apply = b.applyIsolated
		}
		if err := apply(ctx, tx); err != nil {
			return err
		}
		if err := b.at("applied"); err != nil {
			return err
		}
		if err := b.keepFailures(ctx, tx); err != nil {
			return err
		}
		return b.at("kept")
	})
}

// fold brings every chain to its ledger row and lets the gate decide.
func (b *batch) fold(ctx context.Context, tx bun.Tx) error {
	keys := make([]store.Key, 0, len(b.chains))
	for _, c := range b.chains {
		if c.binding != nil && c.keyed {
			keys = append(keys, c.key)
		}
	}
	read := b.store.ReadApplied
	if b.careful {
		read = b.store.LockApplied
		if tx.Dialect().Name() == dialect.PG {
			// A deferred constraint would fail the COMMIT, and nobody could tell whose it was.
			if _, err := tx.ExecContext(ctx, "SET CONSTRAINTS ALL IMMEDIATE"); err != nil {
				return err
			}
		}
	}
	ledger := map[store.Key]store.Applied{}
	if len(keys) > 0 {
		var err error
		if ledger, err = read(ctx, tx, keys); err != nil {
			return err
		}
	}
	for _, c := range b.chains {
		c.fold(ledger[c.key])
		b.failures = append(b.failures, c.refused...)
	}
	return nil
}

// applyAll is the cheap way. The ledger comes first: its locks keep competing consumers of the same keys out.
func (b *batch) applyAll(ctx context.Context, tx bun.Tx) error {
	if err := b.settleLedger(ctx, tx); err != nil {
		return err
	}
	return b.write(ctx, tx, b.chains)
}

// settleLedger writes the ledger rows that the chains changed, and removes the placeholders of those that changed nothing.
func (b *batch) settleLedger(ctx context.Context, tx bun.Tx) error {
	var rows []store.Applied
	var unchanged []store.Key
	for _, c := range b.chains {
		switch {
		case len(c.passed) > 0:
			rows = append(rows, c.state)
		case c.keyed && c.before.Revision == store.NeverApplied:
			unchanged = append(unchanged, c.key)
		}
	}
	for _, c := range b.deferred {
		if c.before.Revision == store.NeverApplied {
			unchanged = append(unchanged, c.key)
		}
	}
	if len(unchanged) > 0 {
		if err := b.store.ForgetLocked(ctx, tx, unchanged); err != nil {
			return err
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return b.store.SettleApplied(ctx, tx, rows)
}

// finish tells what became of the messages, after the commit. The acks come last: who sees one finds everything told.
func (b *batch) finish() {
	b.reportGaps()
	b.afterFailures()
	var parents []store.Key
	for _, c := range b.chains {
		if slices.Contains(b.deferred, c) {
			continue
		}
		if c.created() && b.isParent[c.key.Model] {
			parents = append(parents, c.key)
		}
		b.arrived.tell(c)
	}
	b.waiting.release(b.Replica, parents)
	var ended []*item
	for _, c := range b.chains {
		if slices.Contains(b.deferred, c) {
			continue
		}
		for _, it := range c.items {
			if it.overtook && it.outcome == Stale && !it.strict {
				b.overtake(it)
			}
			if it.outcome == Returned && !it.strict {
				go b.endLater(it)
				continue
			}
			ended = append(ended, it)
		}
	}
	b.endAll(ended)
	b.chains, b.deferred = b.deferred, nil
}

// inSavepoint undoes what use did when it fails. An *outageError means that the transaction is of no use any more.
func inSavepoint(ctx context.Context, tx bun.Tx, use func(bun.Tx) error) error {
	savepoint, err := tx.BeginTx(ctx, nil)
	if err != nil {
		return &outageError{fmt.Errorf("savepoint: %w", err)}
	}
	err = use(savepoint)
	if err == nil {
		if err = savepoint.Commit(); err == nil {
			return nil
		}
	}
	if rollbackErr := savepoint.Rollback(); rollbackErr != nil && !errors.Is(rollbackErr, sql.ErrTxDone) {
		return &outageError{fmt.Errorf("%w; roll back to the savepoint: %w", err, rollbackErr)}
	} else if rollbackErr != nil {
		return &outageError{err}
	}
	return err
}
