package outbox

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"
)

const (
	// announceEvery is the default of Config.NotifyEvery. A relay that was woken looks again by
	// itself within that time, so that more notifications would gain nothing.
	announceEvery = 5 * time.Millisecond
	// announceTimeout bounds one, in which the pool may have no connection to spare.
	announceTimeout = 5 * time.Second
)

// announcer tells relays in other processes that something was committed: at once, and then seldom,
// with the last word at the end, however many transactions commit. It runs while there is something
// to tell.
type announcer struct {
	announce func(ctx context.Context) error
	every    time.Duration
	log      *slog.Logger

	ended sync.WaitGroup // one goroutine at most
	stop  chan struct{}  // closed by close

	failing bool // of the goroutine that runs

	mu      sync.Mutex
	running bool
	again   bool // something was committed since the last notification began
	closed  bool
}

func newAnnouncer(
	announce func(ctx context.Context) error, every time.Duration, log *slog.Logger,
) *announcer {
	return &announcer{announce: announce, every: every, log: log, stop: make(chan struct{})}
}

// ring returns at once.
func (a *announcer) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	a.again = true
	if !a.running {
		a.running = true
		a.ended.Go(a.run)
	}
}

// close tells what is left to tell, and returns when the goroutine has ended.
func (a *announcer) close() {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.stop)
	}
	a.mu.Unlock()
	a.ended.Wait()
}

func (a *announcer) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-a.stop: // without a pause to the last word
		}
		if !a.take() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), announceTimeout)
		a.told(a.announce(ctx))
		cancel()
		timer.Reset(a.every)
	}
}

// told logs that notifications fail, once until one succeeds: relays look by themselves, too, so
// nothing but time is lost. A service that ends closes its database, perhaps without Close, and
// that is no failure; database/sql has no error to compare with.
func (a *announcer) told(err error) {
	if err != nil && !a.failing && !strings.HasSuffix(err.Error(), "sql: database is closed") {
		a.log.Warn("relays in other processes are not told of commits: they find messages when "+
			"they look by themselves",
			"error", err)
	}
	a.failing = err != nil
}

// take says whether there is something to tell. If not, the next ring starts anew.
func (a *announcer) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running, a.again = a.again, false
	return a.running
}
