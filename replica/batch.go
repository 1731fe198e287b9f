package replica

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// batch is what one transaction takes: the chains of messages of some keys, and what becomes of
// them.
//
// The first try is the cheap one: read the ledger, settle it, write the rows of each model with one
// statement, commit. Where it fails, the careful one follows: lock the ledger, find the messages at
// fault with savepoints, settle the rest, keep the failed ones for later or as dead letters, all in
// one transaction. So a message that fails never fails its neighbours, and an ack always stands for
// a commit. Where a lock was not to be had, the brief one does the same without waiting for locks,
// and sets aside what would need them (locked.go).
type batch struct {
	engine  *engine
	chains  []*chain
	careful bool
	// it waits for no lock for long, and finds the messages that would have to
	brief bool
	// of HandleFunc, so that trouble with the database repeats no calls
	replies  map[*delivery]reply
	broken   map[*delivery]error // handlers that broke a transaction: they fail without being tried
	gaps     []Gap               // to be told of after the commit
	released bool                // others of the keys are due
	failures []failure
	sorted   []*binding      // models, parents before their children
	mirrors  []*mirror       // those of sorted
	isParent map[string]bool // models that a mirror's foreign key points to
	apart    bool            // what waited for each other made the COMMIT fail together
	// foreign keys made the COMMIT fail on SQLite, which does not say whose
	unsaid bool
	// violations are the foreign keys that are broken before the batch, where they are counted, or
	// -1.
	violations int
	deferred   []*chain // for a transaction of their own, because this one takes long enough
	later      []*chain // not begun yet, because a careful transaction takes few
}

// maxCareful bounds the chains of a careful transaction. A savepoint that was released keeps an
// entry in PostgreSQL's lock table until the end, which all connections share; without a bound a
// batch whose messages fail here and there fills it, and everybody's statements fail.
const maxCareful = 500

// failure is a message that cannot be applied now.
type failure struct {
	*attempt
	err    error
	class  retryClass
	awaits *int64 // the revision that it waits for, or waited for
	gapIn  time.Duration
}

func newFailure(a *attempt, err error, class retryClass) failure {
	return failure{a, err, class, a.past.awaits, a.past.gapIn}
}

// handlerBudget is how long handlers may go on in one transaction: slow ones do not keep the locks
// of a whole batch.
const handlerBudget = 200 * time.Millisecond

// settle ends every message of the slots.
func (e *engine) settle(slots []*slot) {
	b := &batch{engine: e, replies: map[*delivery]reply{}, broken: map[*delivery]error{}}
	for _, s := range slots {
		if deliveries := e.inbox.deliveries(s); len(deliveries) > 0 {
			b.chains = append(b.chains, newChain(s.key, deliveries))
		}
	}
	pause := newBackOff()
	for {
		b.dropStopped()
		if len(b.chains) == 0 {
			if pause.tries > 0 { // nothing waits for the database here any more
				e.trouble.over(applying)
			}
			return
		}
		if err := b.attempt(); err != nil {
			b.pause(pause, err)
			continue
		}
		if since, was := b.engine.trouble.over(applying); was {
			b.engine.log.Info("messages are applied again", "after",
				time.Since(since).Round(time.Second))
		}
		b.finish()
		pause.Reset()
		pause.tries = 0
	}
}

// attempt tries to apply the batch within its time.
func (b *batch) attempt() error {
	ctx, cancel := b.engine.timeout()
	defer cancel()
	return b.traced(ctx)
}

// try applies the batch, or reports trouble that is none of its messages' fault.
func (b *batch) try(ctx context.Context) error {
	if b.engine.room == nil {
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
	brief := b.engine.locked.beBrief()
	if !brief && !b.needsCare() {
		err := b.transact(ctx, false, false)
		brief = b.lockedOut(err)
		if err == nil || !brief && classOf(err) == outage && !errors.Is(err, applied.ErrOvertaken) {
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
	if !db.LockTimedOut(err) {
		return false
	}
	b.engine.locked.met()
	return true
}

// timeout bounds a try, and is not cut short when the consumer is stopped: cut off, it would be
// done again from the start. Handlers have a shorter one of their own.
func (e *engine) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), 2*e.config.HandlerTimeout+time.Minute)
}

// needsCare says that the cheap way does not do: a handler that fails after its neighbours would
// undo their work, which may have had effects elsewhere.
func (b *batch) needsCare() bool {
	return slices.ContainsFunc(b.chains, func(c *chain) bool {
		return c.binding != nil && c.binding.manner.inTurn
	})
}

// transact is the one transaction that P6 rests on: gate, rows and ledger, and what becomes of the
// messages that fail.
func (b *batch) transact(ctx context.Context, careful, brief bool) error {
	b.careful, b.brief, b.failures, b.deferred = careful, brief, nil, nil
	b.released, b.violations = false, -1
	own := len(b.chains)
	limits := db.BatchLimits{Thinking: b.thinking(), Brief: brief}
	err := b.engine.room.transact(ctx, limits,
		func(ctx context.Context, tx transaction) (err error) {
			if careful && b.unsaid {
				if b.violations, err = tx.violations(ctx); err != nil {
					return err
				}
			}
			if err := b.fold(ctx, tx); err != nil {
				return err
			}
			if err := b.engine.at("folded"); err != nil {
				return err
			}
			apply := b.applyAll
			if careful {
				apply = b.applyIsolated
			}
			if err := apply(ctx, tx); err != nil {
				return err
			}
			if err := b.engine.at("applied"); err != nil {
				return err
			}
			if err := b.passedOver(ctx, tx); err != nil {
				return err
			}
			if err := b.keepFailures(ctx, tx); err != nil {
				return err
			}
			return b.engine.at("kept")
		})
	if err != nil {
		b.apart = b.apart || len(b.chains) > own && isForeignKey(err)
		b.unsaid = b.unsaid || careful && isForeignKey(err) && b.engine.room.hidesWhose()
		b.chains = b.chains[:own] // what joined them waits where it was
	}
	return err
}

// thinking is how long the handlers that take part in the transaction may leave the database alone.
func (b *batch) thinking() time.Duration {
	for _, c := range b.chains {
		if c.binding != nil && c.binding.manner.thinks {
			return b.engine.config.HandlerTimeout
		}
	}
	return 0
}

// fold brings every chain to its ledger row and lets the gate decide.
func (b *batch) fold(ctx context.Context, tx transaction) error {
	keys := make([]db.Key, 0, len(b.chains))
	for _, c := range b.chains {
		if c.binding != nil && c.keyed && !b.knownLocked(c) {
			keys = append(keys, c.key)
		}
	}
	if b.careful {
		if err := tx.blameAtOnce(ctx); err != nil {
			return err
		}
	}
	ledger := map[db.Key]applied.Applied{}
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
		b.failures = append(b.failures, c.fold(row)...)
	}
	return nil
}

// finish tells what became of the messages, after the commit. The acks come last: who sees one
// finds everything told.
func (b *batch) finish() {
	b.engine.tellGaps(b.gaps)
	b.sayLocked()
	b.afterFailures()
	var parents []db.Key
	for _, c := range b.chains {
		if slices.Contains(b.deferred, c) {
			continue
		}
		if c.created() && b.isParent[c.key.Model] {
			parents = append(parents, c.key)
		}
		b.engine.arrived.tell(c)
	}
	b.engine.release(parents)
	var ended []*attempt
	for _, c := range b.chains {
		if slices.Contains(b.deferred, c) {
			continue
		}
		for _, a := range c.attempts {
			if a.overtook && a.outcome == Stale && !a.strict && a.next == nil {
				b.engine.overtake(a.delivery)
			}
			switch {
			case a.next != nil:
				time.AfterFunc(spread(lockPause/2), func() { b.engine.inbox.add(a.next) })
			case a.outcome == Returned && !a.strict:
				go b.engine.endLater(a)
			default:
				ended = append(ended, a)
			}
		}
	}
	b.engine.endAll(ended)
	b.chains = slices.Concat(b.deferred, b.later)
	b.deferred, b.later = nil, nil
}
