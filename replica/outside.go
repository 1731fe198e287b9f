package replica

import (
	"context"
	"fmt"

	"github.com/cqrsync/cqrsync/envelope"
)

// Result is what became of a message that came from outside of a broker.
type Result struct {
	// Applied says that the database changed: false for what was known already, or overtaken.
	Applied bool
	// Err says why it could not be applied; nothing of it was.
	Err error
}

// Apply takes messages through the gate that came from a file, not from a broker: nothing is parked, and the caller
// learns what became of each. A message that fails does not hold up the others.
func (r *Replica) Apply(ctx context.Context, messages []*envelope.Message) ([]Result, error) {
	models, err := r.start()
	if err != nil {
		return nil, err
	}
	c := consumer{r, models}
	results := make([]Result, len(messages))
	for i, m := range messages {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("replica: apply: %w", err)
		}
		result, err := c.process(ctx, m)
		results[i] = Result{Applied: err == nil && (result == applied || result == gap), Err: err}
	}
	return results, nil
}
