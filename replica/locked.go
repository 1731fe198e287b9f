package replica

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// A row that another transaction has locked stops its own key. Whoever holds it may be a process of
// this queue that was stopped, or a transaction of the service's own that takes its time. Nothing
// waits for it but the key: its messages go to replica_waiting without spending an attempt, and are
// tried again.

const (
	// lockPause is how long such messages wait, before random spread.
	lockPause = 2 * time.Second
	// briefFor is how long this process waits for no lock after it has met one that it could not
	// have.
	briefFor = 10 * time.Second
	// strictTime is how long a message of Apply is tried for that needs a locked row.
	strictTime = 30 * time.Second
	// sayLockedEvery is how often a key is named in the log.
	sayLockedEvery = 30 * time.Second
	// maxLockedKeys bounds what is known of keys; then it is forgotten.
	maxLockedKeys = 10000
)

// setAside lets messages wait because of a lock.
func (b *batch) setAside(attempts []*attempt, cause error) {
	for _, a := range attempts {
		err := fmt.Errorf("another transaction has locked what it needs: %w", cause)
		b.failures = append(b.failures, newFailure(a, a.about(err), busy))
	}
}

// setAsideUnread is setAside for a chain about which the ledger was not asked.
func (b *batch) setAsideUnread(c *chain, cause error) {
	c.begin(applied.Applied{Key: c.key})
	c.unread = true
	b.setAside(c.attempts, cause)
}

// knownLocked says that the messages of a chain go aside untried. Those that have waited are tried.
func (b *batch) knownLocked(c *chain) bool {
	if !c.keyed || !b.engine.locked.has(c.key) {
		return false
	}
	for _, d := range c.deliveries {
		if d.past.claimed != nil || d.strict {
			return false
		}
	}
	return true
}

// findBriefly is split where locks are not waited for. Rows of mirrors that are locked are asked
// for. What else is, it finds by halves, all of one size before smaller ones, so that few waits
// leave few messages in doubt. When it has waited often for a model, those are set aside, too.
func (b *batch) findBriefly(
	ctx context.Context, tx transaction, chains []*chain,
) (map[*chain]error, error) {
	failed, err := b.lockedRows(ctx, tx, chains)
	if err != nil {
		return nil, err
	}
	waits, parts := map[*binding]int{}, [][]*chain{chains}
	var last error
	for len(parts) > 0 {
		part := slices.DeleteFunc(slices.Clone(parts[0]), func(c *chain) bool {
			if failed[c] == nil && waits[c.binding] >= b.engine.room.briefTries() {
				failed[c] = last
			}
			return failed[c] != nil
		})
		if parts = parts[1:]; len(part) == 0 {
			continue
		}
		err := tx.savepoint(ctx, func(tx transaction) error { return b.write(ctx, tx, part) })
		switch {
		case err == nil:
		case db.LockTimedOut(err):
			last = err
			waits[part[0].binding]++
			if len(part) == 1 {
				failed[part[0]] = err
			} else {
				parts = append(parts, part[:len(part)/2], part[len(part)/2:])
			}
		case classOf(err) == outage:
			return nil, err
		default:
			more, err := b.split(ctx, tx, part)
			if err != nil {
				return nil, err
			}
			merge(failed, more)
		}
	}
	return failed, nil
}

var errRowLocked = &lockedRowError{}

// lockedRowError says that a row was found to be locked, without waiting for it.
type lockedRowError struct{}

func (*lockedRowError) Error() string { return "the row is locked" }

// isLocked says that a lock was not to be had.
func isLocked(err error) bool {
	return db.LockTimedOut(err) || errors.As(err, new(*lockedRowError))
}

// lockedRows finds the chains of mirrors whose rows others have locked, and locks the other rows.
func (b *batch) lockedRows(
	ctx context.Context, tx transaction, chains []*chain,
) (map[*chain]error, error) {
	byModel := map[*mirror][]*chain{}
	for _, c := range chains {
		if m, is := c.mirror(); is {
			byModel[m] = append(byModel[m], c)
		}
	}
	locked := map[*chain]error{}
	const most = 100 // rows that one statement asks for: each is compared with each
	for model, chains := range byModel {
		for part := range slices.Chunk(chains, most) {
			there, err := model.rowsOf(ctx, tx.service(), part, "")
			if err != nil {
				return nil, err
			}
			free, err := model.rowsOf(ctx, tx.service(), part, "FOR UPDATE SKIP LOCKED")
			if err != nil {
				return nil, err
			}
			for i, c := range part {
				if there[i] && !free[i] {
					locked[c] = errRowLocked
				}
			}
		}
	}
	return locked, nil
}

// rowsOf says which of the chains have a row, as numbers. lock ends the query.
func (m *mirror) rowsOf(
	ctx context.Context, tx bun.Tx, chains []*chain, lock string,
) (map[int]bool, error) {
	rows := make(map[int]bool, len(chains))
	if tx.Dialect().Name() == dialect.SQLite {
		return rows, nil // it locks no rows
	}
	var which strings.Builder
	conditions := make([]string, len(chains))
	for i, c := range chains {
		conditions[i] = m.where(c.last().work.(*row), m.shape.Load())
		fmt.Fprintf(&which, " WHEN %s THEN %d", conditions[i], i)
	}
	var found []int
	err := tx.NewRaw("SELECT CASE ? END FROM ? WHERE ? ?", bun.Safe(which.String()),
		m.table.SQLName,
		bun.Safe(strings.Join(conditions, " OR ")), bun.Safe(lock)).Scan(ctx, &found)
	if err != nil {
		return nil, fmt.Errorf("look which rows of %s are locked: %w", m.table.Name, err)
	}
	for _, i := range found {
		rows[i] = true
	}
	return rows, nil
}

// keepAside writes the messages that wait for locks. Where even that is locked, those that waited
// before do so still, and the others stay in memory.
func (b *batch) keepAside(ctx context.Context, tx transaction, aside []failure) error {
	if len(aside) == 0 {
		return nil
	}
	var claimed []applied.Applied
	for _, f := range aside {
		f.outcome = Waiting
		if f.past.claimed != nil {
			claimed = append(claimed, *f.past.claimed)
		}
	}
	err := tx.savepoint(ctx, func(tx transaction) error {
		if len(claimed) > 0 {
			if err := tx.removeWaiting(ctx, claimed); err != nil {
				return err
			}
		}
		return tx.addWaiting(ctx, waitingRows(aside))
	})
	if !db.LockTimedOut(err) {
		return err
	}
	for _, f := range aside {
		if f.past.claimed == nil {
			b.hold(f)
		}
	}
	return nil
}

// holdStrict keeps a message of Apply for another try, or says that its time is over.
func (b *batch) holdStrict(f failure) {
	since := f.past.busySince
	if since.IsZero() {
		since = time.Now()
	}
	if time.Since(since) >= strictTime {
		f.outcome, f.result = Returned, f.err
		return
	}
	b.hold(f)
	f.next.past.busySince = since
}

// hold keeps a message in memory; finish puts it into the inbox again after a while.
func (b *batch) hold(f failure) {
	p := f.past
	if said, called := b.answerTo(f.delivery); called {
		p.call = &said
	}
	f.next = f.again(p)
}

// sayLocked names the keys that were set aside, after the commit, and forgets those that are free
// again.
func (b *batch) sayLocked() {
	for _, f := range b.failures {
		if f.class == busy && b.engine.locked.add(f.key) {
			b.engine.log.Warn("locked by another transaction: the key waits, and others go on",
				f.attrs("error", f.err)...)
		}
	}
	for _, c := range b.chains {
		if len(c.passed) > 0 {
			b.engine.locked.remove(c.key)
		}
	}
}

// spread makes a pause random by half, so that what waits together comes back apart.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) + rand.N(d/2+1) }
