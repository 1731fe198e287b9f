package replica

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/cqrsync/cqrsync/internal/db"
)

// countedBackOff counts how often it was asked.
type countedBackOff struct {
	*backoff.ExponentialBackOff
	tries int
}

func (p *countedBackOff) next() time.Duration {
	p.tries++
	return p.NextBackOff()
}

// conflictsBeforeWarning: other transactions are in the way now and then, and not for seconds.
const conflictsBeforeWarning = 6

// backOff doubles the pause each time, spread by half to keep many consumers from coming back at
// once.
func newBackOff() *countedBackOff {
	return &countedBackOff{ExponentialBackOff: &backoff.ExponentialBackOff{
		InitialInterval:     20 * time.Millisecond,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         5 * time.Second,
	}}
}

// pause waits until the database may work again, or until nobody waits for the batch's first
// message.
func (b *batch) pause(pause *countedBackOff, err error) {
	d := pause.next()
	if (!db.Conflicted(err) || pause.tries > conflictsBeforeWarning) &&
		b.engine.trouble.worth(applying, err) {
		b.engine.log.Warn("batch not applied; trying again until it is", "keys", len(b.chains),
			"in", d, "error", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-b.chains[0].deliveries[0].ctx.Done():
	}
}

// dropStopped ends the messages whose deliverer waits no more: the broker has them again.
func (b *batch) dropStopped() {
	kept := b.chains[:0]
	for _, c := range b.chains {
		c.deliveries = slices.DeleteFunc(c.deliveries, func(d *delivery) bool {
			if d.ctx.Err() == nil {
				return false
			}
			b.engine.end(&attempt{
				delivery: d, outcome: Returned, result: fmt.Errorf("%w: %w", errStopped,
					context.Cause(d.ctx)),
			})
			return true
		})
		if len(c.deliveries) > 0 {
			kept = append(kept, c)
		}
	}
	b.chains = kept
}
