// Package socket is the connections of a broker's client, and what a relay needs of them: that they
// can be cut, and send nothing that they may not send any more.
//
// Neighbours: the transports with a module of their own give it to their clients.
package socket

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"time"
)

// Dialer connects for a client, and keeps hold of what it made: to cut it.
type Dialer struct {
	connect, write time.Duration // how long each may take

	mu        sync.Mutex
	ctx       context.Context      // of connecting
	sockets   map[*socket]struct{} // those that are open: a client may have one per server
	isCut     bool
	permitted func() error // nil: always
}

// NewDialer returns one that connects before ctx ends, and within a timeout. The other timeout is
// that of each write.
func NewDialer(ctx context.Context, connect, write time.Duration) *Dialer {
	return &Dialer{ctx: ctx, connect: connect, write: write, sockets: map[*socket]struct{}{}}
}

var errCut = errors.New("the connection was cut")

// Dial connects, unless Cut was called.
func (d *Dialer) Dial(network, address string) (net.Conn, error) {
	d.mu.Lock()
	ctx, cut := d.ctx, d.isCut
	d.mu.Unlock()
	if cut {
		return nil, errCut
	}
	dial := net.Dialer{Timeout: d.connect}
	conn, err := dial.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	linger(conn, 0) // also where the client itself closes it, because nobody answers
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isCut {
		return nil, errors.Join(errCut, conn.Close())
	}
	s := &socket{Conn: conn, dialer: d}
	d.sockets[s] = struct{}{}
	return s, nil
}

// Cut closes all connections without sending anything more, neither what the client holds back nor
// what the operating system still has. No further one is made.
func (d *Dialer) Cut() {
	d.mu.Lock()
	d.isCut = true
	open := slices.Collect(maps.Keys(d.sockets))
	d.mu.Unlock()
	for _, s := range open {
		s.cut()
	}
}

// Free lets the dialer make another connection when that one is lost, for as long as the client
// tries.
func (d *Dialer) Free() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = context.Background()
}

// Permit sets what is asked before each write, nil for nothing.
func (d *Dialer) Permit(permitted func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.permitted = permitted
}

func (d *Dialer) permission() func() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.permitted
}

// socket gives every write a deadline: a cut cable swallows. And it asks before each write
// whether anything may be sent: the client writes from a buffer, in a goroutine of its own, so
// what was published in time may be about to leave too late. Then the connection is cut, because
// after a part of a message nothing else makes sense to the server.
type socket struct {
	net.Conn
	dialer *Dialer
}

func (s *socket) Write(p []byte) (int, error) {
	if permitted := s.dialer.permission(); permitted != nil {
		if err := permitted(); err != nil {
			s.cut()
			return 0, err
		}
	}
	if err := s.SetWriteDeadline(time.Now().Add(s.dialer.write)); err != nil {
		return 0, err
	}
	return s.Conn.Write(p)
}

func (s *socket) cut() {
	linger(s.Conn, 0)
	_ = s.Close()
}

// Close closes the connection, of which the dialer need not know any longer.
func (s *socket) Close() error {
	s.dialer.mu.Lock()
	delete(s.dialer.sockets, s)
	s.dialer.mu.Unlock()
	return s.Conn.Close()
}

// linger says for how long the operating system goes on sending when a connection is closed. With
// none, what did not arrive never does: else it arrives when a cable is mended, behind what was
// sent again on another connection.
func linger(conn net.Conn, seconds int) {
	if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
		_ = tcp.SetLinger(seconds) // or it is closed already
	}
}
