package pool_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/pool"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type session struct{ cut, closed bool }

func (s *session) Cut()         { s.cut = true }
func (s *session) Close()       { s.closed = true }
func (s *session) Closed() bool { return s.closed }

// A session is used by one call at a time, kept after it, and cut when that went wrong.
func TestSessionsAreKeptUnlessACallFails(t *testing.T) {
	opened := []*session{}
	p := pool.New(2, func(context.Context) (*session, error) {
		opened = append(opened, &session{})
		return opened[len(opened)-1], nil
	})
	well := func(context.Context, *session) error { return nil }
	require.NoError(t, p.Use(t.Context(), well))
	require.NoError(t, p.Use(t.Context(), func(ctx context.Context, s *session) error {
		require.Same(t, opened[0], s)
		require.NoError(t, p.Use(ctx, well))
		return nil
	}))
	require.Len(t, opened, 2)
	broken := errors.New("broken")
	err := p.Use(t.Context(), func(context.Context, *session) error { return broken })
	require.ErrorIs(t, err, broken)
	require.ErrorIs(t, err, transport.ErrUnavailable)
	require.NoError(t, p.Use(t.Context(), well))
	require.Len(t, opened, 2)
	opened[0].closed, opened[1].closed = true, true // by the server
	require.NoError(t, p.Use(t.Context(), well))
	require.Len(t, opened, 3)
	p.Close(time.Minute)
	require.True(t, opened[2].closed)
	require.False(t, opened[2].cut)
	p.Close(time.Minute)
	require.ErrorIs(t, p.Use(t.Context(), well), pool.ErrClosed)
}

// A call waits for its turn until its context ends, and one that does not end has its time.
func TestCallsWaitForTheirTurn(t *testing.T) {
	p := pool.New(1, func(context.Context) (*session, error) { return &session{}, nil })
	began, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- p.Use(context.Background(), func(ctx context.Context, _ *session) error {
			close(began)
			<-ctx.Done()
			return context.Cause(ctx)
		})
	}()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Use(ctx, nil), context.Canceled)
	ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Use(ctx, nil), context.DeadlineExceeded)
	p.Close(time.Millisecond)
	require.ErrorIs(t, <-ended, pool.ErrClosed)
}
