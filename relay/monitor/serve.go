package monitor

import (
	"context"
	"net"
	"net/http"

	"github.com/cqrsync/cqrsync/internal/health"
)

// Handler serves /healthz (200 while the process answers), /readyz (200 or 503, with the reason as
// text) and /metrics (this monitor's, Go's and the process's). Use one Handler per Monitor.
func (m *Monitor) Handler() http.Handler { return health.Handler(m.Ready, m) }

// Listen opens an address: HOST:PORT, or PORT alone for the loopback interface. It opens to the
// network only where a host says so, as 0.0.0.0:9464 does, because everybody who reaches it may
// read it.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	return health.Listen(ctx, address)
}

// Serve answers on the listener until ctx ends, then finishes what it is answering, for at most a
// second, and closes the listener.
func (m *Monitor) Serve(ctx context.Context, listener net.Listener) error {
	return health.Serve(ctx, listener, m.Handler())
}
