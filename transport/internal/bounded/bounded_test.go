package bounded_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport/internal/bounded"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// renewed has a deadline that never comes.
type renewed struct{ context.Context }

func (renewed) Deadline() (time.Time, bool) { return time.Now().Add(10 * time.Millisecond), true }

func TestTimeoutEndsUnderADeadlineThatMoves(t *testing.T) {
	slow := errors.New("slow")
	ctx, cancel := bounded.Timeout(renewed{t.Context()}, 50*time.Millisecond, slow)
	defer cancel()
	select {
	case <-ctx.Done():
		require.Equal(t, slow, context.Cause(ctx))
	case <-time.After(30 * time.Second):
		require.FailNow(t, "it does not end")
	}
}

func TestTimeoutEndsWithItsContext(t *testing.T) {
	lost := errors.New("lost")
	outer, end := context.WithCancelCause(renewed{t.Context()})
	ctx, cancel := bounded.Timeout(outer, time.Hour, nil)
	defer cancel()
	end(lost)
	<-ctx.Done()
	require.Equal(t, lost, context.Cause(ctx))
}
