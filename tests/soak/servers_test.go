package soak

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/tests/servers"
)

// The servers of a soak test are its own, because it restarts them.

type postgres struct {
	*servers.Postgres
	t    *testing.T
	port int
}

func startPostgres(t *testing.T) *postgres {
	t.Helper()
	p := servers.StartPostgres(t)
	return &postgres{p, t, p.Port}
}

func (p *postgres) start() {
	p.t.Helper()
	require.NoError(p.t, p.Start())
}

func (p *postgres) stop(mode string) {
	p.t.Helper()
	require.NoError(p.t, p.Stop(mode))
}

// standby copies the server as it is now: what it does later does not reach the copy.
func (p *postgres) standby() *postgres {
	p.t.Helper()
	return &postgres{p.Standby(p.t), p.t, p.port}
}

// promote makes a standby the server at the address of the one that it was copied from, which is dead.
func (p *postgres) promote() {
	p.t.Helper()
	require.NoError(p.t, p.Promote())
}

func (p *postgres) url() string { return p.URL("postgres") }

type rabbitmq struct {
	*servers.RabbitMQ
	t *testing.T
}

func startRabbitMQ(t *testing.T) *rabbitmq {
	t.Helper()
	return &rabbitmq{servers.StartRabbitMQ(t), t}
}

func (r *rabbitmq) start() {
	r.t.Helper()
	require.NoError(r.t, r.Start())
}

func (r *rabbitmq) stop() {
	r.t.Helper()
	require.NoError(r.t, r.Stop(syscall.SIGTERM))
}

func (r *rabbitmq) url() string { return r.URL() }
