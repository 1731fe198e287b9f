package operate

import (
	"context"
	"iter"
	"time"
)

// prefetch reads the next page while the one before is dealt with.
func prefetch[T any](
	ctx context.Context, pages func(ctx context.Context) iter.Seq2[T, error],
) iter.Seq2[T, error] {
	type read struct {
		page T
		err  error
	}
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		next := make(chan read, 1)
		go func() {
			defer close(next)
			for page, err := range pages(ctx) {
				select {
				case next <- read{page, err}:
				case <-ctx.Done():
					return
				}
			}
		}()
		defer func() {
			cancel()
			for range next { // until the reader has ended
			}
		}()
		for r := range next {
			if !yield(r.page, r.err) {
				return
			}
		}
		if err := ctx.Err(); err != nil { // the reader may have ended before it could say so
			var none T
			yield(none, err)
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
