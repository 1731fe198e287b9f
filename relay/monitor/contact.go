package monitor

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cqrsync/cqrsync/transport"
)

// contact is when the broker was last seen to take messages or a login. While nothing leaves, the
// publisher is asked, if it can be: a wrong password must not be found out by the first message.
type contact struct {
	mu     sync.Mutex
	prober transport.Prober // nil if the publisher is none
	last   time.Time        // zero before the first
	again  time.Time        // not to be asked before
	err    error            // of the last time
}

// checkEvery bounds how often a broker is asked to log somebody in.
const checkEvery = 5 * time.Second

// lost returns why the broker cannot be reached, if it has not been for longer than patience, or
// never. confirmed is when it last took a message.
func (c *contact) lost(
	ctx context.Context, confirmed time.Time, patience, timeout time.Duration,
) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if confirmed.After(c.last) {
		c.last = confirmed
	}
	start := time.Now()
	if c.prober == nil || !c.last.IsZero() && start.Sub(c.last) <= patience {
		return nil
	}
	if start.Before(c.again) {
		return c.err
	}
	// The answer is for whoever looks next, too: it does not end with the one who asked.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	c.err = c.prober.Probe(ctx)
	now := time.Now()
	c.again = now.Add(checkEvery)
	if c.err == nil {
		c.last = now
		return nil
	}
	c.err = fmt.Errorf("nothing waits, but the broker could not take it if it did: %w", c.err)
	return c.err
}
