// Package bounded gives calls to a broker their time.
//
// Neighbours: the transports ask brokers under contexts of relays, whose deadline is their lease's.
package bounded

import (
	"context"
	"time"
)

// Timeout is context.WithTimeoutCause for a context whose deadline may move, as that of a lease
// that is renewed. The standard library's sets no timer where the context's own deadline is sooner:
// it relies on the context to end then, and one that is renewed does not.
//
// What it returns has the timeout for its deadline. It ends with ctx, too.
func Timeout(
	ctx context.Context, timeout time.Duration, cause error,
) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(undated{ctx}, timeout, cause)
}

type undated struct{ context.Context }

func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }
