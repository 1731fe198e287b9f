package operate

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/replica"
)

// DeadLetterFilter chooses dead letters: those for which everything holds that is set. The zero
// value chooses all.
type DeadLetterFilter struct {
	IDs        []int64
	Model, Key string
	// Before chooses those given up before that time.
	Before time.Time
}

// RetriedDeadLetter is what became of a dead letter.
type RetriedDeadLetter struct {
	ID         int64
	Model, Key string
	// Outcome is a replica.Outcome as text: returned where the message could still not be applied,
	// and stays; Err says why.
	Outcome string
	Err     error
}

// RetryDeadLetters takes a replica's dead letters through the gate again, after what made them fail
// was mended. What is applied, known or overtaken is removed, the rest stays. tell is called for
// each.
func RetryDeadLetters(
	ctx context.Context, rep *replica.Replica, f DeadLetterFilter, tell func(RetriedDeadLetter),
) error {
	return mirrored.Of(rep).RetryDeadLetters(ctx, mirrored.DeadLetterFilter(f),
		func(d mirrored.RetriedDeadLetter) {
			tell(RetriedDeadLetter(d))
		})
}
