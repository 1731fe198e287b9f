package relay_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// What could not be written down is forgotten with the tenure in which it happened: the same messages are on their way again
// in the next one, and must not end by what they were before.
func TestWhatOthersHoldLockedEndsWithTheTenure(t *testing.T) {
	onServers(t, func(t *testing.T, rawURL string) {
		e := newEnv(t, dbtest.Open(t, rawURL))
		const keys = 8
		tx, err := e.DB().BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }() // it is over where the test ends as it should
		key, now := `"key"`, "now()"
		if !strings.HasPrefix(rawURL, "postgres") {
			key, now = "`key`", "0"
		}
		for i := range keys { // so that no failure of theirs can be written down
			_, err := tx.ExecContext(t.Context(), "INSERT INTO outbox_retries (model, "+key+
				", attempts, next_attempt_at, last_error) VALUES ('order', ?, 0, "+now+", 'no')", fmt.Sprint("bad", i))
			require.NoError(t, err)
		}
		var once sync.Once
		refused, again, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
		e.broker.before = func(ctx context.Context, _ []transport.Outgoing) {
			once.Do(func() { close(again) })
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
		answers := &broker{}
		publisher := refuseFirst{e.broker, &sync.Once{}, refused}
		cfg := relay.Config{LeaseTTL: 4 * time.Second, RetryMin: time.Millisecond, BatchSize: keys}
		for i := range keys {
			e.save(t, fmt.Sprint("bad", i))
		}
		first, _ := e.start(t, publisher, cfg)
		wait(t, refused, "the refusal")
		eventually(t, func() bool { return e.logs.count("waiting for another transaction") > 0 }, "who is waited for")
		all := first.Stats().Lanes
		e.start(t, answers, cfg)
		wait(t, again, "that they are sent once more")
		require.Less(t, first.Stats().Lanes, all)
		require.NoError(t, tx.Rollback())
		// What was held would be written down within heldPause, a second, were it still known.
		for until := time.Now().Add(2 * time.Second); time.Now().Before(until) && e.status(t).Retries == 0; {
			require.NoError(t, t.Context().Err())
		}
		close(release)
		e.requireSent(t)
		e.broker.requireOrder(t)
		require.Zero(t, e.status(t).Retries)
	})
}

// refuseFirst refuses the first batch.
type refuseFirst struct {
	*broker
	once *sync.Once
	done chan struct{}
}

func (r refuseFirst) PublishBatch(ctx context.Context, batch []transport.Outgoing) (errs []error) {
	r.once.Do(func() {
		for range batch {
			errs = append(errs, errors.New("no"))
		}
		close(r.done)
	})
	if errs != nil {
		return errs
	}
	return r.broker.PublishBatch(ctx, batch)
}
