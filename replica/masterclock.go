package replica

import (
	"sync"
	"time"
)

// masterClock knows how late it is at least by a master's clock, which may be any time apart from
// the clocks here. A message carries the time at which the master made the change, so by the
// master's clock it is that late at least; and since then as much time has passed there as here.
// What has an expiry is judged by that: the same clock has set it.
//
// Two spans are kept, each of half an hour, so that a clock that was ahead and went back is
// believed again after an hour.
type masterClock struct {
	mu sync.Mutex
	// microseconds that the master's clock is ahead of the one here, at least; in the two spans
	now, before  int64
	knows, known bool // now and before are set
	turned       time.Duration
}

const clockSpan = 30 * time.Minute

// started is when the monotonic clock here is zero.
var started = time.Now()

// elapsed is the time by the monotonic clock here.
func elapsed() time.Duration { return time.Since(started) }

// sees notes that it is that late by the master's clock, at the time here.
func (c *masterClock) sees(master time.Time, here time.Duration) {
	if master.IsZero() {
		return
	}
	ahead := master.UnixMicro() - here.Microseconds()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.knows && here-c.turned > clockSpan {
		c.before, c.known, c.knows = c.now, true, false
	}
	if !c.knows {
		c.turned = here
	}
	if !c.knows || ahead > c.now {
		c.now, c.knows = ahead, true
	}
}

// at is how late it is at least by the master's clock, zero where nothing is known.
func (c *masterClock) at(here time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	ahead := c.now
	if c.known && (!c.knows || c.before > ahead) {
		ahead = c.before
	}
	if !c.known && !c.knows {
		return time.Time{}
	}
	return time.UnixMicro(ahead + here.Microseconds()).UTC()
}
