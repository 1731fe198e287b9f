package outbox

import (
	"context"
	"sync"
	"time"
)

const (
	// announceEvery is the shortest time between two notifications. A relay that was woken looks again by itself within
	// that time, so that more of them would gain nothing.
	announceEvery = 5 * time.Millisecond
	// announceTimeout bounds one, in which the pool may have no connection to spare.
	announceTimeout = 5 * time.Second
)

// announcer tells relays in other processes that something was committed: at once, and then at most every announceEvery
// with the last word at the end, however many transactions commit. It runs while there is something to tell, and is
// nobody's to stop.
type announcer struct {
	announce func(ctx context.Context) error

	mu      sync.Mutex
	running bool
	again   bool // something was committed since the last notification began
}

// ring returns at once.
func (a *announcer) ring() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.again = true
	if !a.running {
		a.running = true
		go a.run()
	}
}

func (a *announcer) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		<-timer.C
		if !a.take() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), announceTimeout)
		_ = a.announce(ctx) // relays look by themselves, too: that is what must not fail
		cancel()
		timer.Reset(announceEvery)
	}
}

// take says whether there is something to tell. If not, the next ring starts anew.
func (a *announcer) take() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running, a.again = a.again, false
	return a.running
}
