package operate

import (
	"context"
	"encoding/json"
	"time"
)

// suspect is a key that differed when it was first looked at.
type suspect struct {
	claim
	seen time.Time
	line int
}

// maxSuspects bounds what is held to be looked at again.
const maxSuspects = 100_000

// linger bounds how long a suspect whose grace is over waits for others, because a run that is
// interrupted goes on from it.
const linger = 10 * time.Second

// settle looks again at the suspects whose grace is over, and reports those that still differ; with
// patience it waits for the grace of the oldest.
func (c *comparer) settle(ctx context.Context, patience bool) error {
	if len(c.suspects) == 0 {
		return nil
	}
	if patience {
		if err := wait(ctx, time.Until(c.suspects[0].seen.Add(c.options.Grace))); err != nil {
			return err
		}
	}
	var ripe []claim
	full := c.options.pageSize(diffPage)
	for len(ripe) < full && len(ripe) < len(c.suspects) &&
		time.Since(c.suspects[len(ripe)].seen) >= c.options.Grace {
		ripe = append(ripe, c.suspects[len(ripe)].claim)
	}
	if len(ripe) == 0 || len(ripe) < full && !patience &&
		time.Since(c.suspects[0].seen) < c.options.Grace+linger {
		return nil // many lines of a few keys each would make diff-sync slow
	}
	c.suspects = append(c.suspects[:0], c.suspects[len(ripe):]...)
	differ, err := c.look(ctx, ripe)
	if err != nil {
		return err
	}
	pks := make([]json.RawMessage, len(differ))
	for i, claim := range differ {
		pks[i] = json.RawMessage(claim.pk)
		if claim.ahead {
			c.ahead++
		}
	}
	c.differing += int64(len(pks))
	return c.out.keys(pks)
}

// settled is how many lines need no second look any more.
func (c *comparer) settled() int {
	if len(c.suspects) > 0 {
		return c.suspects[0].line - 1
	}
	return c.looked
}
