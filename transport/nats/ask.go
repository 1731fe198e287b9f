package nats

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/transport/internal/bounded"
)

// firstAnswer is how long an answer is waited for at first, then twice as long each time. While a
// cluster has no leader for what is asked, nobody answers, and nobody does later.
const firstAnswer = 2 * time.Second

// ask asks the server until it answers, or ctx ends. What is asked must be the same twice.
func ask[T any](ctx context.Context, question func(context.Context) (T, error)) (T, error) {
	for wait := firstAnswer; ; wait *= 2 {
		once, cancel := bounded.Timeout(ctx, wait, nil)
		answer, err := question(once)
		unanswered := once.Err() != nil
		cancel()
		if err == nil || ctx.Err() != nil || !unanswered {
			return answer, err
		}
	}
}
