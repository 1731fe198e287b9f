package sqlite

import (
	"context"
	"time"
)

// How often the file is polled: a change that was seen makes another one likely.
const (
	fastestPoll = 5 * time.Millisecond
	slowestPoll = 100 * time.Millisecond
	// wakeAtLeast bounds what a change that was overlooked can cost.
	wakeAtLeast = time.Second
)

// watch wakes the consumers of this process when the file has changed, by whichever process. One
// poll serves them all; it reads a number from shared memory.
func (f *file) watch() {
	interval := fastestPoll
	var seen int64
	var woken time.Time
	for {
		select {
		case <-f.closing.Done():
			return
		case <-time.After(interval):
		}
		version, err := f.version()
		changed := err == nil && version != seen
		if changed {
			seen, interval = version, fastestPoll
		} else {
			interval = min(interval*6/5, slowestPoll)
		}
		// After an error, too: the consumers meet it themselves and report it.
		if changed || err != nil || time.Since(woken) > wakeAtLeast {
			woken = time.Now()
			f.wake()
		}
	}
}

// version changes with whatever others commit. It is 0 while there is no file, for whose return the
// consumers look.
func (f *file) version() (version int64, err error) {
	h := f.opened()
	if h == nil {
		return 0, nil
	}
	ctx := context.Background()
	if err := f.check(ctx, h); err != nil {
		return 0, err
	}
	err = h.reader.QueryRowContext(ctx, "PRAGMA data_version").Scan(&version)
	return version, err
}

// wake tells every consumer to look into its queue.
func (f *file) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.consumers {
		select {
		case c.ready <- struct{}{}:
		default: // it has not looked since the last time
		}
	}
}

// join lets a consumer be woken. The first one starts the watch.
func (f *file) join(c *consumer) {
	f.watchOnce.Do(func() { f.watching.Go(f.watch) })
	f.mu.Lock()
	defer f.mu.Unlock()
	f.consumers[c] = struct{}{}
}

func (f *file) leave(c *consumer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.consumers, c)
}
