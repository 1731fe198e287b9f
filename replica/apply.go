package replica

import (
	"context"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/envelope"
)

// Result is what became of a message given to Apply.
type Result struct {
	// Outcome is Returned where the message could not be applied.
	Outcome Outcome
	// Applied says that the database changed: false for what was known already, or overtaken.
	Applied bool
	// Err says why it could not be applied; nothing of it was, and the message is the caller's to
	// keep.
	Err error
}

// Apply takes messages that no broker delivers (a dump, a repair) through the gate, together with
// what is delivered at the same time, and returns what became of each, in order. They neither wait
// nor become dead letters: what fails is reported. While the database is in trouble it waits. Hand
// over thousands at once: they are applied in batches. It ends the time of registration. The error
// is that of a registration, or of CheckTables, or that ctx ended before every message was tried.
func (r *Replica) Apply(ctx context.Context, messages []*envelope.Message) ([]Result, error) {
	if err := r.start(); err != nil {
		return nil, err
	}
	if err := r.checkTablesOnce(ctx); err != nil {
		return nil, err
	}
	deliveries, ended := make([]*delivery, len(messages)), newResults(len(messages))
	for i, m := range messages {
		deliveries[i] = &delivery{ctx: ctx, message: m, strict: true, from: ended, place: i}
		r.examine(deliveries[i])
	}
	r.submit(deliveries...)
	ended.Wait()
	for _, result := range ended.all {
		if errors.Is(result.Err, errStopped) {
			return nil, fmt.Errorf("replica: apply: %w", result.Err)
		}
	}
	return ended.all, nil
}
