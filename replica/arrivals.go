package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// WaitFor returns when the replica has brought a key to the revision or beyond, deleted or not:
// read your own writes. key is the primary key as text, a JSON array where it is composite. It sees
// what other processes of the queue apply, a little later than what this one does. When ctx ends
// first, the error says how far the key is.
//
// A django-cqrs master starts a key's revisions again when it creates the key again: there a
// revision of an earlier life is not waited for in the present one.
func (r *Replica) WaitFor(ctx context.Context, model, key string, revision int64) error {
	if r.tables == nil {
		return errors.New("wait for a revision: the replica has no database, and so no ledger")
	}
	if b := r.models[model]; b != nil {
		if keys := b.keyFields(); len(keys) == 1 {
			key = spelledText(keys[0], key)
		}
	}
	at := applied.Applied{Key: db.Key{Model: model, Key: key}, Revision: applied.NeverApplied}
	for pause := time.Millisecond; ctx.Err() == nil; pause = min(2*pause, 200*time.Millisecond) {
		arrived := r.arrived.watch() // before the look, or what comes in between would be missed
		found, err := r.tables.AppliedRevision(ctx, at.Key)
		switch {
		case err == nil && found.Revision >= revision:
			return nil
		case err == nil:
			at = found
		case ctx.Err() == nil:
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-arrived:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return fmt.Errorf("wait for revision %d of model %q key %q, which is at %s: %w",
		revision, model, key, revisionText(at.Revision), context.Cause(ctx))
}

func revisionText(revision int64) string {
	if revision == applied.NeverApplied {
		return "none"
	}
	return fmt.Sprint(revision)
}

// Lag returns, per registered model, how long ago the master made the newest change that is applied
// here. A master that writes nothing looks like a lag. The first call reads the whole ledger; later
// ones know from it and from what this process has applied since. Models of which nothing with a
// time was applied are not in the result.
func (r *Replica) Lag(ctx context.Context) (map[string]time.Duration, error) {
	if err := r.arrived.load(ctx, r.tables); err != nil {
		return nil, err
	}
	lags := make(map[string]time.Duration)
	r.arrived.mu.Lock()
	defer r.arrived.mu.Unlock()
	now := time.Now()
	for model, newest := range r.arrived.newest {
		if r.models[model] != nil {
			lags[model] = now.Sub(newest)
		}
	}
	return lags, nil
}

// arrivals knows what was applied last, and tells those who wait for it.
type arrivals struct {
	mu      sync.Mutex
	newest  map[string]time.Time // master's time of the newest change, per model
	loaded  bool                 // newest has what the ledger had
	changed chan struct{}        // closed at the next arrival; nil while nobody watches
}

func (a *arrivals) init() { a.newest = make(map[string]time.Time) }

func (a *arrivals) watch() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.changed == nil {
		a.changed = make(chan struct{})
	}
	return a.changed
}

// tell takes note of a chain that was committed.
func (a *arrivals) tell(c *chain) {
	if len(c.passed) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.state.Updated.After(a.newest[c.key.Model]) {
		a.newest[c.key.Model] = c.state.Updated
	}
	if a.changed != nil {
		close(a.changed)
		a.changed = nil
	}
}

func (a *arrivals) load(ctx context.Context, s *ownTables) error {
	a.mu.Lock()
	loaded := a.loaded || s == nil
	a.mu.Unlock()
	if loaded {
		return nil
	}
	newest, err := s.NewestApplied(ctx)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.loaded = true
	for model, t := range newest {
		if t.After(a.newest[model]) {
			a.newest[model] = t
		}
	}
	return nil
}

// gapLog remembers which keys' gaps are in the log, so that a key is there once.
type gapLog struct {
	mu   sync.Mutex
	seen map[db.Key]struct{}
}

// maxGapLog bounds it; then it starts over.
const maxGapLog = 10000

func (g *gapLog) first(key db.Key) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, seen := g.seen[key]; seen {
		return false
	}
	if g.seen == nil || len(g.seen) >= maxGapLog {
		g.seen = make(map[db.Key]struct{})
	}
	g.seen[key] = struct{}{}
	return true
}
