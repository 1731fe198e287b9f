//go:build unix

package chaos

import (
	"errors"
	"net"
	"regexp"
	"sync"
	"sync/atomic"
	"time"
)

// proxy is the way from some processes to a server, and does to it what networks do.
type proxy struct {
	listener net.Listener
	target   string
	delay    atomic.Int64 // nanoseconds, before what is passed on, each way
	swallow  atomic.Int64 // how many answers to a COMMIT are still to be lost
	drop     atomic.Int64 // how many COMMITs are still to be lost before they arrive
	lost     atomic.Int64 // how many were, of either kind
	pumps    sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]bool
	closed bool
}

// link is one connection through a proxy.
type link struct {
	near, far net.Conn
	deaf      atomic.Bool // half open: neither side hears the other any more, nor that it is gone
	mute      atomic.Bool // what the server says is lost
	commit    atomic.Bool // what the server says next answers a COMMIT, and is lost
}

func newProxy(target string) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{listener: listener, target: target, links: map[*link]bool{}}
	p.pumps.Go(p.accept)
	return p, nil
}

func (p *proxy) address() string { return p.listener.Addr().String() }

// close ends the proxy and every connection through it.
func (p *proxy) close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	err := p.listener.Close()
	p.cut()
	p.pumps.Wait()
	return err
}

func (p *proxy) accept() {
	for {
		near, err := p.listener.Accept()
		if err != nil {
			return
		}
		far, err := net.DialTimeout("tcp", p.target, 5*time.Second)
		if err != nil {
			_ = near.Close()
			continue
		}
		l := &link{near: near, far: far}
		p.mu.Lock()
		if p.closed {
			l.close()
		}
		p.links[l] = true
		p.mu.Unlock()
		p.pumps.Go(func() { p.pump(l, near, far, p.question) })
		p.pumps.Go(func() { p.pump(l, far, near, p.answer) })
	}
}

// pump passes on what from says while pass allows, and the end of it, which nobody hears on a
// half-open connection.
func (p *proxy) pump(l *link, from, to net.Conn, pass func(*link, []byte) (bool, error)) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if delay := p.delay.Load(); delay > 0 {
				<-time.After(time.Duration(delay))
			}
			passed, lost := pass(l, buffer[:n])
			if lost == nil && passed && !l.deaf.Load() {
				_, lost = to.Write(buffer[:n])
			}
			err = errors.Join(err, lost)
		}
		if err != nil && !l.deaf.Load() {
			p.forget(l)
		}
		if err != nil {
			return
		}
	}
}

var errCommitLost = errors.New("a COMMIT or its answer is lost with the connection")

// commitSent is how pgx and MySQL's driver ask for a commit.
var commitSent = regexp.MustCompile(`(?i)commit\x00|\x03commit$`)

func (p *proxy) question(l *link, chunk []byte) (pass bool, err error) {
	if p.drop.Load() <= 0 && p.swallow.Load() <= 0 || !commitSent.Match(chunk) {
		return true, nil
	}
	if p.drop.Add(-1) >= 0 {
		p.lost.Add(1)
		return false, errCommitLost
	}
	if p.swallow.Add(-1) >= 0 {
		p.lost.Add(1)
		l.commit.Store(true)
	}
	return true, nil
}

func (p *proxy) answer(l *link, _ []byte) (pass bool, err error) {
	if l.commit.Load() {
		return false, errCommitLost
	}
	return !l.mute.Load(), nil
}

func (l *link) close() {
	_ = l.near.Close() // whether it was open still does not matter
	_ = l.far.Close()
}

func (p *proxy) forget(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l.close()
	delete(p.links, l)
}

// each does something to every connection there is at the moment and returns them.
func (p *proxy) each(do func(*link)) (all []*link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		do(l)
		all = append(all, l)
	}
	return all
}

// cut ends every connection, at whatever byte it is.
func (p *proxy) cut() { p.each((*link).close) }

// halfOpen leaves every connection open, and lets nothing through any more; mute lets only
// questions through. Both return what ends these connections.
func (p *proxy) halfOpen() (end func()) {
	return p.ending(p.each(func(l *link) { l.deaf.Store(true) }))
}

func (p *proxy) mute() (end func()) {
	return p.ending(p.each(func(l *link) { l.mute.Store(true) }))
}

func (p *proxy) ending(links []*link) func() {
	return func() {
		for _, l := range links {
			p.forget(l)
		}
	}
}

// heal ends every trouble, and the connections that had it.
func (p *proxy) heal() {
	p.delay.Store(0)
	p.drop.Store(0)
	p.swallow.Store(0)
	for _, l := range p.each(func(*link) {}) {
		if l.deaf.Load() || l.mute.Load() {
			p.forget(l)
		}
	}
}
