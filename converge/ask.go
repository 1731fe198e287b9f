package converge

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/internal/stored"
)

const (
	// askEvery is how often it is looked what is to be asked for.
	askEvery = time.Second
	// askAgain is how soon a key is asked for again, in paces: after a minute by default. Each further
	// time it is twice as long. A master that does not answer is tried as often.
	askAgain = 6
	// askTries is how often one is asked for. The verification finds what is wrong then.
	askTries = 6
	// parentGrace is how long a missing parent may be on its way by itself.
	parentGrace = 5 * time.Second
	// maxLacks bounds what is remembered.
	maxLacks = 100_000
)

// lacks are the keys that are not as the master has them. It is safe for concurrent use.
type lacks struct {
	again time.Duration // how soon a key is asked for again

	mu      sync.Mutex
	all     map[lackedKey]*lacked
	counts  map[string]map[mirrored.Cause]int64 // asked for, by model and cause
	dropped int64
}

type lackedKey struct{ model, key string }

type lacked struct {
	mirrored.Lack

	due   time.Time
	tries int
}

// add notes a key. One that is noted already keeps its time: so however often it is met, it is
// asked for once a minute at most.
func (l *lacks) add(lack mirrored.Lack, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := lackedKey{lack.Model, lack.Key}
	if known := l.all[key]; known != nil {
		known.Above = max(known.Above, lack.Above)
		if lack.Cause != mirrored.MissingParent {
			known.Cause = lack.Cause
		}
		known.tries = min(known.tries, askTries-1)
		return
	}
	if len(l.all) >= maxLacks {
		l.dropped++
		return
	}
	if l.all == nil {
		l.all = map[lackedKey]*lacked{}
	}
	due := now
	if lack.Cause == mirrored.MissingParent {
		due = now.Add(parentGrace)
	}
	l.all[key] = &lacked{Lack: lack, due: due}
}

// take returns keys that are due, by model and cause, and counts a try of each.
func (l *lacks) take(now time.Time) map[mirrored.Lack][]mirrored.Lack {
	l.mu.Lock()
	defer l.mu.Unlock()
	due := map[mirrored.Lack][]mirrored.Lack{}
	for key, k := range l.all {
		if now.Before(k.due) {
			continue
		}
		if k.tries >= askTries {
			delete(l.all, key)
			continue
		}
		about := mirrored.Lack{Model: k.Model, Cause: k.Cause}
		if len(due[about]) >= maxKeys {
			continue
		}
		due[about] = append(due[about], k.Lack)
		k.due = now.Add(l.again << k.tries)
		k.tries++
	}
	return due
}

// answered notes that keys were asked for. Of what a gap or a verification found nobody sees here
// whether it is mended: it is asked for once, and remembered for as long as the key may not be
// asked for again. The next verification sees it.
func (l *lacks) answered(about mirrored.Lack, keys []mirrored.Lack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.countLocked(about.Model, about.Cause, len(keys))
	if about.Cause == mirrored.MissingParent || about.Cause == mirrored.DeadLetter {
		return
	}
	for _, k := range keys {
		if known := l.all[lackedKey{k.Model, k.Key}]; known != nil {
			known.tries = askTries
		}
	}
}

// forget lets go of keys that lack nothing any more.
func (l *lacks) forget(keys []mirrored.Lack) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range keys {
		delete(l.all, lackedKey{k.Model, k.Key})
	}
}

// askedOf returns how many keys of a model were asked for, by cause.
func (l *lacks) askedOf(model string) map[string]int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := make(map[string]int64, len(l.counts[model]))
	for cause, n := range l.counts[model] {
		asked[string(cause)] = n
	}
	return asked
}

// count counts keys that were asked for otherwise.
func (l *lacks) count(model string, cause mirrored.Cause, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.countLocked(model, cause, n)
}

func (l *lacks) countLocked(model string, cause mirrored.Cause, n int) {
	if l.counts == nil {
		l.counts = map[string]map[mirrored.Cause]int64{}
	}
	if l.counts[model] == nil {
		l.counts[model] = map[mirrored.Cause]int64{}
	}
	l.counts[model][cause] += int64(n)
}

func (l *lacks) asked() (asked map[string]int64, dropped int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked = map[string]int64{}
	for _, causes := range l.counts {
		for cause, n := range maps.All(causes) {
			asked[string(cause)] += n
		}
	}
	return asked, l.dropped
}

// ask asks for what is lacking, until ctx ends.
func (r *Reporter) ask(ctx context.Context) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		for about, keys := range r.lacks.take(time.Now()) {
			if err := r.askFor(ctx, about, keys); err != nil && ctx.Err() == nil {
				r.log.Warn("cannot ask the master for what is lacking; trying again",
					"model", about.Model, "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// askFor asks for those of some keys that are still lacking.
func (r *Reporter) askFor(ctx context.Context, about mirrored.Lack, keys []mirrored.Lack) error {
	keys, err := r.stillLacking(ctx, about, keys)
	if err != nil || len(keys) == 0 {
		return err
	}
	out := resync{
		head:  head{Version: version, Kind: kindResync, Queue: r.queue, Instance: r.config.Instance},
		Model: about.Model, Cause: string(about.Cause), Keys: make([]askedKey, len(keys)),
	}
	for i, k := range keys {
		out.Keys[i] = askedKey{k.Key, k.Above}
	}
	body, err := json.Marshal(out)
	if err != nil {
		return fmt.Errorf("write a request: %w", err)
	}
	answered, err := r.say(ctx, kindResync, about.Model, body)
	if answered {
		r.lacks.answered(about, keys)
		r.log.Info("asked the master for what is lacking",
			"model", about.Model, "cause", about.Cause, "keys", len(keys))
	}
	return err
}

// stillLacking leaves out what came by itself meanwhile.
func (r *Reporter) stillLacking(
	ctx context.Context, about mirrored.Lack, keys []mirrored.Lack,
) ([]mirrored.Lack, error) {
	shape, err := r.replica.Model(about.Model)
	if err != nil {
		return nil, err
	}
	pks := make([]json.RawMessage, len(keys))
	for i, k := range keys {
		pks[i] = stored.KeyJSON(shape.Key, k.Key)
	}
	kept, err := r.replica.Lookup(ctx, about.Model, pks, false)
	if err != nil {
		return nil, err
	}
	var still, done []mirrored.Lack
	for i, k := range keys {
		switch {
		case k.Cause == mirrored.MissingParent && kept[i].Present,
			k.Cause == mirrored.DeadLetter && kept[i].Revision > k.Above:
			done = append(done, k)
		default:
			still = append(still, k)
		}
	}
	r.lacks.forget(done)
	return still, nil
}
