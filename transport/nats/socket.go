package nats

import (
	"context"
	"net"
	"sync"
	"time"
)

// dialer connects for a connection of the client's, and keeps hold of what it made: to cut it.
type dialer struct {
	timeout time.Duration // of connecting, and of a write

	mu     sync.Mutex
	ctx    context.Context // of connecting
	socket *socket         // nil before it has connected
}

// Dial implements the client's CustomDialer.
func (d *dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	ctx := d.ctx
	d.mu.Unlock()
	dial := net.Dialer{Timeout: d.timeout}
	conn, err := dial.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.socket = &socket{Conn: conn, timeout: d.timeout}
	return d.socket, nil
}

// cut ends connecting, whatever it waits for.
func (d *dialer) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.socket != nil {
		d.socket.cut()
	}
}

// made returns the connection, and lets the dialer make another one when that is lost, for as long
// as the client tries.
func (d *dialer) made() *socket {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = context.Background()
	return d.socket
}

// socket gives every write a deadline: a cut cable swallows. And it asks before each write
// whether anything may be sent: the client writes from a buffer, in a goroutine of its own, so
// what was published in time may be about to leave too late. Then the connection is cut, because
// after a part of a message nothing else makes sense to the server.
type socket struct {
	net.Conn
	timeout time.Duration

	mu        sync.Mutex
	permitted func() error // nil: always
}

func (s *socket) Write(p []byte) (int, error) {
	s.mu.Lock()
	permitted := s.permitted
	s.mu.Unlock()
	if permitted != nil {
		if err := permitted(); err != nil {
			s.cut()
			return 0, err
		}
	}
	if err := s.SetWriteDeadline(time.Now().Add(s.timeout)); err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

// permit sets what is asked before each write, nil for nothing.
func (s *socket) permit(permitted func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.permitted = permitted
}

// cut closes the connection without sending anything more, neither what the client holds back nor
// what the operating system still has.
func (s *socket) cut() {
	if tcp, ok := s.Conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(0) // it is closed already
	}
	_ = s.Close()
}
