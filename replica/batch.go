package replica

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"reflect"
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
// neighbours, and an ack always stands for a commit. Where a lock was not to be had, the brief one does the same without
// waiting for locks, and sets aside what would need them (locked.go).
type batch struct {
	*Replica
	chains   []*chain
	careful  bool
	brief    bool           // it waits for no lock for long, and finds the messages that would have to
	held     map[*item]bool // to be tried again from memory
	gaps     []Gap          // to be told of after the commit
	released bool           // others of the keys are due
	failures []failure
	sorted   []*binding      // models, parents before their children
	isParent map[string]bool // models that a mirror's foreign key points to
	apart    bool            // what waited for each other made the COMMIT fail together
	unsaid   bool            // foreign keys made the COMMIT fail on SQLite, which does not say whose
	// violations are the foreign keys that are broken before the batch, where they are counted, or -1.
	violations int
	deferred   []*chain // for a transaction of their own, because this one takes long enough
	later      []*chain // not begun yet, because a careful transaction takes few
}

// maxCareful bounds the chains of a careful transaction. A savepoint that was released keeps an entry in PostgreSQL's lock
// table until the end, which all connections share; without a bound a batch whose messages fail here and there
// fills it, and everybody's statements fail.
const maxCareful = 500

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
		if since, was := b.trouble.over("apply"); was {
			b.log.Info("messages are applied again", "after", time.Since(since).Round(time.Second))
		}
		b.finish()
		pause.Reset()
		pause.tries = 0
	}
}

// patientBackOff counts how often it was asked.
type patientBackOff struct {
	*backoff.ExponentialBackOff
	tries int
}

func (p *patientBackOff) next() time.Duration {
	p.tries++
	return p.NextBackOff()
}

// conflictsBeforeWarning: other transactions are in the way now and then, and not for seconds.
const conflictsBeforeWarning = 6

// backOff doubles the pause each time, spread by half to keep many consumers from coming back at once.
func (r *Replica) backOff() *patientBackOff {
	return &patientBackOff{ExponentialBackOff: &backoff.ExponentialBackOff{
		InitialInterval:     20 * time.Millisecond,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         5 * time.Second,
	}}
}

// pause waits until the database may work again, or until nobody waits for the batch's first message.
func (b *batch) pause(pause *patientBackOff, err error) {
	d := pause.next()
	if (!store.Conflicted(err) || pause.tries > conflictsBeforeWarning) && b.trouble.worth("apply", err) {
		b.log.Warn("batch not applied; trying again until it is", "keys", len(b.chains), "in", d, "error", err)
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
	brief := b.locked.beBrief()
	if !brief && !b.needsCare() {
		err := b.transact(ctx, false, false)
		brief = b.lockedOut(err)
		if err == nil || !brief && patienceWith(err) == outage && !errors.Is(err, store.ErrOvertaken) {
			return err
		}
	}
	if len(b.chains) > maxCareful {
		b.later = slices.Concat(b.chains[maxCareful:], b.later)
		b.chains = b.chains[:maxCareful:maxCareful]
	}
	if !brief {
		err := b.transact(ctx, true, false)
		if brief = b.lockedOut(err); !brief {
			return err
		}
	}
	return b.transact(ctx, true, true)
}

// lockedOut says that a transaction failed for want of a lock, and takes note of that.
func (b *batch) lockedOut(err error) bool {
	if !store.LockTimedOut(err) {
		return false
	}
	b.locked.met()
	return true
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
func (b *batch) transact(ctx context.Context, careful, brief bool) error {
	b.careful, b.brief, b.failures, b.deferred = careful, brief, nil, nil
	b.held, b.released, b.violations = nil, false, -1
	own := len(b.chains)
	limits := store.BatchLimits{Options: b.store.BatchOptions(), Thinking: b.thinking(), Brief: brief}
	err := b.store.InBatch(ctx, limits, func(ctx context.Context, tx bun.Tx) (err error) {
		if careful && b.unsaid {
			if b.violations, err = violations(ctx, tx); err != nil {
				return err
			}
		}
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
		if err := b.passedOver(ctx, tx); err != nil {
			return err
		}
		if err := b.keepFailures(ctx, tx); err != nil {
			return err
		}
		return b.at("kept")
	})
	if err != nil {
		b.apart = b.apart || len(b.chains) > own && isForeignKey(err)
		b.unsaid = b.unsaid || careful && isForeignKey(err) && b.db.Dialect().Name() == dialect.SQLite
		b.chains = b.chains[:own] // what joined them waits where it was
	}
	return err
}

// thinking is how long the handlers that take part in the transaction may leave the database alone.
func (b *batch) thinking() time.Duration {
	for _, c := range b.chains {
		if c.binding != nil && (c.binding.handle != nil || c.binding.handleBatch != nil) {
			return b.config.HandlerTimeout
		}
	}
	return 0
}

// fold brings every chain to its ledger row and lets the gate decide.
func (b *batch) fold(ctx context.Context, tx bun.Tx) error {
	keys := make([]store.Key, 0, len(b.chains))
	for _, c := range b.chains {
		if c.binding != nil && c.keyed && !b.knownLocked(c) {
			keys = append(keys, c.key)
		}
	}
	if b.careful && tx.Dialect().Name() == dialect.PG {
		// A deferred constraint would fail the COMMIT, and nobody could tell whose it was.
		if _, err := tx.ExecContext(ctx, "SET CONSTRAINTS ALL IMMEDIATE"); err != nil {
			return err
		}
	}
	ledger := map[store.Key]store.Applied{}
	if len(keys) > 0 {
		var err error
		if ledger, err = b.readLedger(ctx, tx, keys); err != nil {
			return err
		}
	}
	for _, c := range b.chains {
		row, read := ledger[c.key]
		if c.binding != nil && c.keyed && !read {
			b.setAsideUnread(c, errLocked)
			continue
		}
		c.fold(row)
		b.failures = append(b.failures, c.refused...)
	}
	return nil
}

var errLocked = errors.New("the key's row in the replica's ledger is locked, or was a moment ago")

// readLedger returns the ledger's rows of keys, without those that are locked where the batch does not wait for locks.
func (b *batch) readLedger(ctx context.Context, tx bun.Tx, keys []store.Key) (ledger map[store.Key]store.Applied, err error) {
	switch {
	case b.brief:
		ledger, _, err = b.store.LockFree(ctx, tx, keys)
		return ledger, err
	case b.careful:
		return b.store.LockApplied(ctx, tx, keys)
	default:
		return b.store.ReadApplied(ctx, tx, keys)
	}
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
		case c.keyed && !c.unread && c.before.Revision == store.NeverApplied:
			unchanged = append(unchanged, c.key)
		}
	}
	for _, c := range b.deferred {
		if c.before.Revision == store.NeverApplied && !c.unread {
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
	b.tellGaps(b.gaps)
	b.sayLocked()
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
			if it.overtook && it.outcome == Stale && !it.strict && !b.held[it] {
				b.overtake(it)
			}
			switch {
			case b.held[it]:
				time.AfterFunc(spread(lockPause/2), func() { b.inbox.add(it) })
			case it.outcome == Returned && !it.strict:
				go b.endLater(it)
			default:
				ended = append(ended, it)
			}
		}
	}
	b.endAll(ended)
	b.chains = slices.Concat(b.deferred, b.later)
	b.deferred, b.later = nil, nil
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
	rollbackErr := savepoint.Rollback()
	if rollbackErr == nil {
		rollbackErr = release(ctx, tx, savepoint)
	}
	if rollbackErr != nil && !errors.Is(rollbackErr, sql.ErrTxDone) {
		return &outageError{fmt.Errorf("%w; roll back to the savepoint: %w", err, rollbackErr)}
	} else if rollbackErr != nil {
		return &outageError{err}
	}
	return err
}

// release ends a savepoint that was rolled back, which bun does not: the next one would lie within it, and the one after
// that deeper still, each with its entry in PostgreSQL's lock table.
func release(ctx context.Context, tx, savepoint bun.Tx) error {
	name := reflect.ValueOf(savepoint).FieldByName("name") // bun tells it nobody
	if name.Kind() != reflect.String || name.String() == "" {
		return nil
	}
	_, err := tx.ExecContext(ctx, "RELEASE SAVEPOINT "+name.String())
	return err
}
