package browser

import (
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// proxy is the way to the broker, which can be closed.
type proxy struct {
	listener net.Listener
	closed   atomic.Bool
	mu       sync.Mutex
	conns    map[net.Conn]bool
}

func newProxy(t testing.TB, to string) *proxy {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	if !strings.Contains(to, ":") {
		to += ":5672"
	}
	p := &proxy{listener: listener, conns: map[net.Conn]bool{}}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.pass(conn, to) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.cut()
		running.Wait()
	})
	return p
}

func (p *proxy) pass(conn net.Conn, to string) {
	other, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(context.Background(), "tcp", to)
	if err != nil || p.closed.Load() {
		_ = conn.Close()
		if err == nil {
			_ = other.Close()
		}
		return
	}
	p.mu.Lock()
	p.conns[conn], p.conns[other] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(other, conn); _ = other.Close() })
	both.Go(func() { _, _ = io.Copy(conn, other); _ = conn.Close() })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, conn)
	delete(p.conns, other)
	p.mu.Unlock()
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		_ = conn.Close()
	}
}
