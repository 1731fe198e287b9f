package monitor

import (
	"context"
	"sync"
	"time"
)

// WatchTroubles has the monitor show what is wrong, as operate/diagnosis finds it: read returns how
// many troubles there are of each kind, kinds without one included. Call it once, before Run of the
// relay.
func (m *Monitor) WatchTroubles(read func(ctx context.Context) map[string]int) {
	m.troubles.Store(&watchedTroubles{read: read})
}

// watchedTroubles asks the database seldom, however often somebody looks.
type watchedTroubles struct {
	read func(context.Context) map[string]int

	mu     sync.Mutex
	until  time.Time
	answer map[string]int
}

var troubles = gauge("cqrsync_troubles",
	"What is wrong with the master or its replicas, by kind: the words of relay status.", "kind")

func (w *watchedTroubles) get(ctx context.Context, timeout time.Duration) map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if start := time.Now(); !start.Before(w.until) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		w.answer = w.read(ctx)
		now := time.Now()
		w.until = now.Add(max(replicasFresh, 20*now.Sub(start)))
	}
	return w.answer
}

func (m *Monitor) collectTroubles(ctx context.Context, send sender) {
	w := m.troubles.Load()
	if w == nil {
		return
	}
	for kind, n := range w.get(ctx, m.config.QueryTimeout) {
		send(troubles, float64(n), kind)
	}
}
