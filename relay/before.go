package relay

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// before calls Config.Before until it has done its work, or ctx ends. The relay owns no lanes
// meanwhile: another one that is ready publishes.
func (r *Relay) before(ctx context.Context) {
	if r.cfg.Before == nil {
		return
	}
	pause := &backoff.ExponentialBackOff{
		InitialInterval: 100 * time.Millisecond, RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier: 2, MaxInterval: 5 * time.Second,
	}
	for said := false; ctx.Err() == nil; {
		err := r.cfg.Before(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil && said:
			r.log.Info("the relay is ready to publish")
			return
		case err == nil:
			return
		case !said:
			r.log.Warn("nothing is published before everything is ready; trying again", "error",
				err)
			said = true
		}
		timer := time.NewTimer(pause.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}
