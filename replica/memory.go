package replica

import (
	"context"
	"sync"
	"time"
)

// memory is what the bodies of the messages take that are held without an ack. A body is held
// several times while it is applied: as it came, in parts, as SQL. So it is counted before it is
// read.
type memory struct {
	limit int

	mu    sync.Mutex
	held  int
	most  int           // what held was at most
	count int           // of the messages
	freed chan struct{} // closed when some is free; nil while nobody waits
}

// take counts a body. It may exceed the limit, or a large one would never be taken.
func (m *memory) take(size int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held += size
	m.most = max(m.most, m.held)
	m.count++
}

// give takes bodies back.
func (m *memory) give(size, count int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held -= size
	m.count -= count
	if m.freed != nil && m.held < m.limit {
		close(m.freed)
		m.freed = nil
	}
}

// full says that nothing more is to be read until freed, and how many messages that is.
func (m *memory) full() (full bool, count int, freed <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.held < m.limit {
		return false, m.count, nil
	}
	if m.freed == nil {
		m.freed = make(chan struct{})
	}
	return true, m.count, m.freed
}

// sizes let a subscription's window follow the size of its messages: what a broker has sent ahead
// is held as well, and none counts bytes. The window ends with the subscription, so another one
// takes a new subscription.
type sizes struct {
	window  int // the configured one
	fits    int // what is asked for; 0 is window
	average float64
	seen    int // messages since the subscription began
}

// sizeAssumed is how large messages are taken to be until some have come.
const sizeAssumed = 4 << 20

// sizesFor begins with a window that large messages do not exceed by much.
func sizesFor(window, limit int) sizes {
	s := sizes{window: window}
	if first := max(limit/sizeAssumed, 1); first < window {
		s.fits = first
	}
	return s
}

// growAfter is after how many windows of smaller messages a subscription takes more.
const growAfter = 4

func (s *sizes) now() int {
	if s.fits == 0 {
		return s.window
	}
	return s.fits
}

// saw takes note of a message, and says that the window is much too small.
func (s *sizes) saw(size, limit int) (grow bool) {
	s.seen++
	weight := max(0.1, 1/float64(s.seen))
	s.average += weight * (float64(size) - s.average)
	if s.fits == 0 || s.seen < growAfter*s.fits {
		return false
	}
	fits := int(float64(limit) / max(s.average, 1))
	if fits < 2*s.fits {
		return false
	}
	if s.fits = min(fits, 4*s.fits); s.fits >= s.window {
		s.fits = 0
	}
	return true
}

// filled takes note that so many messages fill the memory, and says that the window is much too
// large.
func (s *sizes) filled(count int) (shrink bool) {
	if now := s.now(); now == 1 || count > now/2 {
		return false
	}
	s.fits = max(count, 1)
	return true
}

// resizeTime is how long a subscription that ends for another window is kept for the acks of what
// is in work.
const resizeTime = 2 * time.Second

// endSoon ends a subscription when its messages are settled, or after a while: what the broker has
// sent ahead is in memory.
func endSoon(end context.CancelFunc, unsettled *sync.WaitGroup) {
	timer := time.AfterFunc(resizeTime, end)
	defer timer.Stop()
	unsettled.Wait()
}
