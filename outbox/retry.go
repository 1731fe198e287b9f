package outbox

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

const (
	retryAttempts = 10
	// retryPause is the longest before the second attempt, and twice as long before each further one.
	retryPause = 5 * time.Millisecond
)

// RetryInTx is [Box.RunInTx] for transactions that may collide, as those under REPEATABLE READ and
// SERIALIZABLE do: when the database gives one up because of another (serialization failure,
// deadlock, locked file), it runs fn again in a new transaction, up to ten times in all, with short
// random pauses. fn must have no effect outside its transaction. Inside another RunInTx it runs
// once: only the outermost transaction can start over.
func (b *Box) RetryInTx(
	ctx context.Context, opts *sql.TxOptions, fn func(ctx context.Context, tx bun.Tx) error,
) error {
	_, nested := ctx.Value(sessionKey{b}).(*session)
	for attempt := 1; ; attempt++ {
		err := b.RunInTx(ctx, opts, fn)
		if err == nil || nested || !db.Conflicted(err) {
			return err
		}
		if attempt == retryAttempts {
			return fmt.Errorf("outbox: the transaction collided %d times: %w", attempt, err)
		}
		timer := time.NewTimer(rand.N(retryPause << (attempt - 1)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
