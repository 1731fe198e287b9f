// Package network is what lies between the machines of a test: proxies that take their time, and
// that can be cut and healed as a cable can.
package network

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// held is how many chunks of one direction of a connection are on their way, at most.
const held = 4096

// Proxy is the way to a server. Nothing is lost on it: what is sent while it is cut arrives when it
// is healed, as TCP's repetitions do, unless its sender has reset the connection meanwhile.
type Proxy struct {
	listener net.Listener
	target   string
	delay    time.Duration
	closed   chan struct{}
	running  sync.WaitGroup

	mu    sync.Mutex
	open  chan struct{} // closed while the way is open
	conns map[net.Conn]bool
}

// NewProxy listens on address, which may be 127.0.0.1:0, for what goes to target. What is sent
// arrives delay later, each way, at whatever rate.
func NewProxy(address, target string, delay time.Duration) (*Proxy, error) {
	listener, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		listener: listener, target: target, delay: delay, closed: make(chan struct{}),
		open: make(chan struct{}), conns: map[net.Conn]bool{},
	}
	close(p.open)
	p.running.Go(p.accept)
	return p, nil
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Cut lets nothing pass any more, and tells nobody.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default: // it is cut already
	}
}

// Heal lets everything pass again.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// Close ends all connections, and the proxy.
func (p *Proxy) Close() error {
	err := p.listener.Close()
	close(p.closed)
	p.mu.Lock()
	for conn := range p.conns {
		_ = conn.Close() // whoever has it is told, that is all
	}
	p.mu.Unlock()
	p.running.Wait()
	return err
}

func (p *Proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return // it is closed
		}
		if !p.keep(near) {
			return
		}
		p.running.Go(func() { p.join(near) })
	}
}

// join connects a client with the server when the way is open.
func (p *Proxy) join(near net.Conn) {
	if !p.pass() {
		return
	}
	far, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.target)
	if err != nil || !p.keep(far) {
		p.forget(near) // as if the server had refused it
		return
	}
	p.running.Go(func() { p.pump(far, near) })
	p.pump(near, far)
}

// pass waits while the way is cut. It returns false when the proxy is closed.
func (p *Proxy) pass() bool {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	select {
	case <-open:
		return true
	case <-p.closed:
		return false
	}
}

func (p *Proxy) keep(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		_ = conn.Close() // nobody is served any more
		return false
	default:
		p.conns[conn] = true
		return true
	}
}

func (p *Proxy) forget(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // one side has ended it already
		delete(p.conns, conn)
	}
}

// chunk is something on its way.
type chunk struct {
	bytes []byte
	due   time.Time
}

// pump passes on what from says, and its end.
func (p *Proxy) pump(from, to net.Conn) {
	way := make(chan chunk, held)
	var reset atomic.Bool
	p.running.Go(func() { p.arrive(way, &reset, from, to) })
	defer close(way)
	for {
		buffer := make([]byte, 32<<10)
		n, err := from.Read(buffer)
		if n > 0 {
			select {
			case way <- chunk{buffer[:n], time.Now().Add(p.delay)}:
			case <-p.closed:
				return
			}
		}
		if err != nil {
			reset.Store(!errors.Is(err, io.EOF))
			return
		}
	}
}

func (p *Proxy) arrive(way <-chan chunk, reset *atomic.Bool, from, to net.Conn) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for c := range way {
		timer.Reset(time.Until(c.due))
		select {
		case <-timer.C:
		case <-p.closed:
		}
		if !p.pass() || reset.Load() {
			break
		}
		if _, err := to.Write(c.bytes); err != nil {
			break
		}
	}
	if p.pass() { // an end is not heard either while the way is cut
		p.forget(from, to)
	}
	for range way { // until its reader has ended, which forget brings about
	}
}
