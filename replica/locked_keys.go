package replica

import (
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// lockedKeys is what this process knows of keys that others have locked.
type lockedKeys struct {
	mu    sync.Mutex
	keys  map[db.Key]lockedKey
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
func (l *lockedKeys) has(key db.Key) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return time.Now().Before(l.keys[key].until)
}

// add takes note of a key, and says whether it is time to name it.
func (l *lockedKeys) add(key db.Key) (say bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil || len(l.keys) >= maxLockedKeys {
		l.keys = make(map[db.Key]lockedKey)
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
func (l *lockedKeys) remove(key db.Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.keys, key)
}
