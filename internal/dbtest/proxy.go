package dbtest

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
)

// Proxy stands between a client and a database server. When it is frozen nothing passes any more
// and nobody is told, so to the server the client looks like a process that was stopped, and to the
// client the network like one that is gone.
type Proxy struct {
	listener net.Listener
	server   string
	frozen   chan struct{}
	freeze   func()
	closed   chan struct{}
	running  sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn
}

// NewProxy starts one before the server of a URL and returns it with the URL of what
// it serves. It ends with the test.
func NewProxy(t testing.TB, rawURL string) (*Proxy, string) {
	t.Helper()
	u, err := url.Parse(rawURL)
	require.NoError(t, err)
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &Proxy{
		listener: listener, server: u.Host,
		frozen: make(chan struct{}), closed: make(chan struct{}),
	}
	p.freeze = sync.OnceFunc(func() { close(p.frozen) })
	p.running.Go(p.serve)
	t.Cleanup(p.Close)
	u.Host = listener.Addr().String()
	return p, u.String()
}

// Freeze lets nothing pass any more.
func (p *Proxy) Freeze() { p.freeze() }

// Close closes all connections, of which client and server are told.
func (p *Proxy) Close() {
	p.mu.Lock()
	select {
	case <-p.closed:
	default:
		close(p.closed)
		_ = p.listener.Close() // nobody is served any more, whatever it says
		for _, conn := range p.conns {
			_ = conn.Close() // the same
		}
	}
	p.mu.Unlock()
	p.running.Wait()
}

func (p *Proxy) serve() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // it is closed
		}
		server, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", p.server)
		if err != nil {
			_ = client.Close() // as if the server had refused it
			continue
		}
		if !p.keep(client, server) {
			return
		}
		p.running.Go(func() { p.forward(client, server) })
		p.running.Go(func() { p.forward(server, client) })
	}
}

func (p *Proxy) keep(conns ...net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		for _, conn := range conns {
			_ = conn.Close() // nobody is served any more
		}
		return false
	default:
		p.conns = append(p.conns, conns...)
		return true
	}
}

func (p *Proxy) forward(from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		select {
		case <-p.frozen:
			<-p.closed // also when the other side has closed: nobody is told
			return
		default:
		}
		if n > 0 {
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			_ = to.Close() // passes on what was heard
			return
		}
	}
}

// FreezeBefore is a hook of bun that freezes a proxy when so many statements with Text in them,
// those that begin and end transactions among them, have been run.
type FreezeBefore struct {
	Proxy      *Proxy
	Statements int
	Text       string

	mu     sync.Mutex
	before int
	query  string
}

// BeforeQuery counts a statement.
func (f *FreezeBefore) BeforeQuery(ctx context.Context, event *bun.QueryEvent) context.Context {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !strings.Contains(event.Query, f.Text) {
		return ctx
	}
	if f.before == f.Statements && f.query == "" {
		f.query = event.Query
		f.Proxy.Freeze()
	}
	f.before++
	return ctx
}

// AfterQuery does nothing.
func (*FreezeBefore) AfterQuery(context.Context, *bun.QueryEvent) {}

// Frozen returns the first statement that did not pass, empty if there was none.
func (f *FreezeBefore) Frozen() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.query
}
