package monitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/cqrsync/cqrsync/internal/health"
)

// Handler serves GET /healthz (the process lives), /readyz (503 and the reason where Ready returns
// one) and /metrics (the series of the replica, of the Go runtime and of the process).
func (m *Monitor) Handler() http.Handler { return health.Handler(m.Ready, m) }

// Serve serves Handler until ctx ends, and closes the listener.
func (m *Monitor) Serve(ctx context.Context, listener net.Listener) error {
	return health.Serve(ctx, listener, m.Handler())
}

var errNotSubscribed = errors.New("it has not subscribed to all of its topics yet")

// Ready returns why the replica does not follow its master, nil while it does: it is subscribed to
// all topics, what arrives is applied, and its database answers. A message that waits or was given
// up is no reason: the others go on.
func (m *Monitor) Ready(context.Context) error {
	var errs []error
	for _, o := range m.replica.Outages() {
		errs = append(errs, fmt.Errorf("the %s has been away for %s: %w", o.What,
			time.Since(o.Since).Round(time.Second), o.Err))
	}
	select {
	case <-m.replica.Running():
	default:
		errs = append(errs, errNotSubscribed)
	}
	if s := m.ask(); s.err != nil {
		errs = append(errs, fmt.Errorf("its state cannot be read from the database: %w", s.err))
	}
	return errors.Join(errs...)
}
