package transports_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// proxy stands between a service and the broker and can do to them what networks and brokers do. It copies the
// broker's answers frame by frame, so that it can put one in between.
type proxy struct {
	broker   string
	listener net.Listener
	serving  sync.WaitGroup

	mu      sync.Mutex
	change  *sync.Cond // of what follows
	refuse  bool       // new connections are dropped at once
	swallow bool       // what the broker answers is lost
	blocked bool       // nothing reaches the broker
	pairs   []*pair
}

// pair is one proxied connection.
type pair struct {
	service, broker net.Conn
	writing         sync.Mutex // to service, a frame at a time
}

// through is r seen through a proxy.
func (r *rabbit) through(t testing.TB) (*rabbit, *proxy) {
	t.Helper()
	u, err := url.Parse(r.address)
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := newProxy(t, listener, u.Host)
	u.Host = listener.Addr().String()
	behind := *r
	behind.address = u.String()
	return &behind, p
}

func newProxy(t testing.TB, listener net.Listener, broker string) *proxy {
	p := &proxy{broker: broker, listener: listener}
	p.change = sync.NewCond(&p.mu)
	p.serving.Go(p.accept)
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		p.cut()
		p.serving.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		service, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		broker, err := net.Dial("tcp", p.broker)
		if err != nil || refuse {
			_ = service.Close()
			if err == nil {
				_ = broker.Close()
			}
			continue
		}
		both := &pair{service: service, broker: broker}
		p.mu.Lock()
		p.pairs = append(p.pairs, both)
		p.mu.Unlock()
		p.serving.Go(func() { p.questions(both) })
		p.serving.Go(func() { p.answers(both) })
	}
}

func (p *proxy) questions(both *pair) {
	defer both.close()
	buffer := make([]byte, 64<<10)
	for {
		n, err := both.service.Read(buffer)
		p.mu.Lock()
		for p.blocked && slices.Contains(p.pairs, both) {
			p.change.Wait()
		}
		p.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := both.broker.Write(buffer[:n]); err != nil {
			return
		}
	}
}

func (p *proxy) answers(both *pair) {
	defer both.close()
	header := make([]byte, 7)
	for {
		if _, err := io.ReadFull(both.broker, header); err != nil {
			return
		}
		frame := make([]byte, 7+int(binary.BigEndian.Uint32(header[3:]))+1)
		copy(frame, header)
		if _, err := io.ReadFull(both.broker, frame[7:]); err != nil {
			return
		}
		p.mu.Lock()
		swallow := p.swallow
		p.mu.Unlock()
		if !swallow {
			both.answer(frame)
		}
	}
}

func (both *pair) answer(frame []byte) {
	both.writing.Lock()
	defer both.writing.Unlock()
	_, _ = both.service.Write(frame)
}

func (both *pair) close() {
	_ = both.service.Close()
	_ = both.broker.Close()
}

// cut drops every connection.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, both := range p.pairs {
		both.close()
	}
	p.pairs = nil
	p.change.Broadcast()
}

// reachable says whether new connections succeed.
func (p *proxy) reachable(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = !yes
}

// mute loses the broker's answers, or stops doing so.
func (p *proxy) mute(yes bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallow = yes
}

// block does what RabbitMQ does under a resource alarm: it says so to connections that publish, and stops reading.
func (p *proxy) block() { p.alarm(true, append([]byte{0, 10, 0, 60, 13}, "low on memory"...)) }

// unblock ends it.
func (p *proxy) unblock() { p.alarm(false, []byte{0, 10, 0, 61}) }

func (p *proxy) alarm(blocked bool, method []byte) {
	frame := binary.BigEndian.AppendUint32([]byte{1, 0, 0}, uint32(len(method)))
	frame = append(append(frame, method...), 0xce)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, both := range p.pairs {
		both.answer(frame)
	}
	p.blocked = blocked
	p.change.Broadcast()
}
