package replica

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/store"
)

// A row that another transaction has locked stops its own key. Whoever holds it may be a process of this queue that was
// stopped, or a transaction of the service's own that takes its time. Nothing waits for it but the key: its messages go to
// replica_waiting without spending an attempt, and are tried again.

const (
	// lockPause is how long such messages wait, before random spread.
	lockPause = 2 * time.Second
	// briefFor is how long this process waits for no lock after it has met one that it could not have.
	briefFor = 10 * time.Second
	// strictPatience is how long a message of Apply is tried for that needs a locked row.
	strictPatience = 30 * time.Second
	// maxLockTries is how often a transaction waits for locks on behalf of one model. Then the rest of its messages are taken
	// to be in the way of the same holder.
	maxLockTries = 24
	// sayLockedEvery is how often a key is named in the log.
	sayLockedEvery = 30 * time.Second
	// maxLockedKeys bounds what is known of keys; then it is forgotten.
	maxLockedKeys = 10000
)

// lockedKeys is what this process knows of keys that others have locked.
type lockedKeys struct {
	mu    sync.Mutex
	keys  map[store.Key]lockedKey
	brief time.Time // until then no transaction waits for long
}

type lockedKey struct{ until, said time.Time }

// met takes note that a lock was not to be had.
func (l *lockedKeys) met() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.brief = time.Now().Add(briefFor)
}

// beBrief says that a lock was not to be had a moment ago.
func (l *lockedKeys) beBrief() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.brief)
}

// has says that a key was found locked a moment ago.
func (l *lockedKeys) has(key store.Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.keys[key].until)
}

// add takes note of a key, and says whether it is time to name it.
func (l *lockedKeys) add(key store.Key) (say bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil || len(l.keys) >= maxLockedKeys {
		l.keys = make(map[store.Key]lockedKey)
	}
	now, known := time.Now(), l.keys[key]
	if say = now.Sub(known.said) > sayLockedEvery; say {
		known.said = now
	}
	known.until = now.Add(lockPause)
	l.keys[key] = known
	return say
}

// remove forgets a key that was written.
func (l *lockedKeys) remove(key store.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}

// setAside lets messages wait because of a lock.
func (b *batch) setAside(items []*item, cause error) {
	for _, it := range items {
		err := fmt.Errorf("another transaction has locked what it needs: %w", cause)
		b.failures = append(b.failures, failure{it, it.about(err), busy})
	}
}

// setAsideUnread is setAside for a chain about which the ledger was not asked.
func (b *batch) setAsideUnread(c *chain, cause error) {
	c.before = store.Applied{Key: c.key}
	c.state, c.passed, c.refused, c.unread = c.before, nil, nil, true
	b.setAside(c.items, cause)
}

// knownLocked says that the messages of a chain go aside untried. Those that have waited are tried.
func (b *batch) knownLocked(c *chain) bool {
	if !c.keyed || !b.locked.has(c.key) {
		return false
	}
	for _, it := range c.items {
		if it.claimed != nil || it.strict {
			return false
		}
	}
	return true
}

// keepAside writes the messages that wait for locks. Where even that is locked, those that waited before do so still, and the
// others stay in memory.
func (b *batch) keepAside(ctx context.Context, tx bun.Tx, aside []failure) error {
	if len(aside) == 0 {
		return nil
	}
	var claimed []store.Applied
	for _, f := range aside {
		f.outcome = Waiting
		if f.claimed != nil {
			claimed = append(claimed, *f.claimed)
		}
	}
	err := inSavepoint(ctx, tx, func(tx bun.Tx) error {
		if len(claimed) > 0 {
			if err := b.store.RemoveWaiting(ctx, tx, claimed); err != nil {
				return err
			}
		}
		return b.store.AddWaiting(ctx, tx, waitingRows(aside))
	})
	if !store.LockTimedOut(err) {
		return err
	}
	for _, f := range aside {
		if f.claimed == nil {
			b.hold(f)
		}
	}
	return nil
}

// holdStrict keeps a message of Apply for another try, or says that its time is over.
func (b *batch) holdStrict(f failure) {
	if f.busySince.IsZero() {
		f.busySince = time.Now()
	}
	if time.Since(f.busySince) < strictPatience {
		b.hold(f)
		return
	}
	f.outcome, f.result = Returned, f.err
}

// hold keeps a message in memory; finish puts it into the inbox again after a while.
func (b *batch) hold(f failure) {
	if b.held == nil {
		b.held = make(map[*item]bool)
	}
	b.held[f.item] = true
}

// sayLocked names the keys that were set aside, after the commit, and forgets those that are free again.
func (b *batch) sayLocked() {
	for _, f := range b.failures {
		if f.patience == busy && b.locked.add(f.asideKey()) {
			b.log.Warn("locked by another transaction: the key waits, and others go on", f.attrs("error", f.err)...)
		}
	}
	for _, c := range b.chains {
		if len(c.passed) > 0 {
			b.locked.remove(c.key)
		}
	}
}

func (f failure) asideKey() store.Key {
	key, _ := f.key()
	return key
}

// spread makes a pause random by half, so that what waits together comes back apart.
func spread(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) + rand.N(d/2+1) }
