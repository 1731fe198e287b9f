// Package natsserver runs a NATS server with JetStream inside a test.
package natsserver

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/stretchr/testify/require"
)

// Server is one that ends with its test. Stop and Start are a restart: it keeps its data and port.
type Server struct {
	options *server.Options
	running *server.Server
}

// New returns a server that runs. Its options may be changed before it does.
func New(t testing.TB, change ...func(*server.Options)) *Server {
	t.Helper()
	s := &Server{options: &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
		NoSigs: true, NoLog: true, MaxPayload: 1 << 20,
	}}
	for _, c := range change {
		c(s.options)
	}
	s.Start(t)
	t.Cleanup(s.Stop)
	return s
}

// Start runs the server again.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	running, err := server.NewServer(s.options.Clone())
	require.NoError(t, err)
	running.Start()
	require.True(t, running.ReadyForConnections(time.Minute))
	s.running = running
	s.options.Port = running.Addr().(*net.TCPAddr).Port
}

// Stop ends the server, cutting all connections.
func (s *Server) Stop() {
	s.running.Shutdown()
	s.running.WaitForShutdown()
}

// Address is where it listens: host and port.
func (s *Server) Address() string { return s.running.Addr().String() }

// URL is that of a broker, without options.
func (s *Server) URL() string { return "nats://" + s.Address() }
