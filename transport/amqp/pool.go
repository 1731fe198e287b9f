package amqp

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// pool holds a publisher's sessions and makes more of them while all are in use, up to a number.
//
// A broker, or a proxy before it, may allow fewer connections than that. So where a further one
// cannot be had while others are there, the pool does with those, and whoever wants one waits for
// them. That the broker is away is only said when no connection is left.
type pool struct {
	open func(context.Context) (*session, error)
	max  int
	log  *slog.Logger

	ended   context.Context // ends with the publisher
	dialing sync.WaitGroup

	mu       sync.Mutex
	idle     []*session // the last used one at the end
	sessions int        // idle and in use
	making   bool       // another session
	failures int        // of making one, ever
	failure  error      // the last
	enough   int        // as many the broker allows, as far as known; 0 is not known
	askAgain time.Time  // when to try for more than enough
	pause    *backoff.ExponentialBackOff
	changed  chan struct{} // closed, and replaced, when any of this changes
}

func newPool(
	ended context.Context, max int, log *slog.Logger, open func(context.Context) (*session, error),
) *pool {
	return &pool{
		open: open, max: max, log: log, ended: ended, changed: make(chan struct{}),
		pause: &backoff.ExponentialBackOff{InitialInterval: time.Minute, Multiplier: 2,
			MaxInterval: time.Hour},
	}
}

// get returns a session that is nobody else's until put or lose. It fails when there is none and
// none can be made.
func (p *pool) get(ctx context.Context) (*session, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	failures := p.failures
	for {
		if s := p.takeIdle(); s != nil {
			return s, nil
		}
		if p.sessions == 0 && !p.making && p.failures != failures {
			return nil, p.failure
		}
		p.makeMore()
		changed := p.changed
		p.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		p.mu.Lock()
		if err != nil && p.sessions == 0 && p.failure != nil {
			err = fmt.Errorf("%w, and before that: %w", err, p.failure)
		}
		if err != nil {
			return nil, err
		}
	}
}

// takeIdle returns an idle session whose connection is there, nil if there is none.
func (p *pool) takeIdle() *session {
	for len(p.idle) > 0 {
		last := len(p.idle) - 1
		s := p.idle[last]
		p.idle = p.idle[:last]
		if !s.channel.IsClosed() {
			return s
		}
		s.conn.cut()
		p.sessions--
	}
	return nil
}

// makeMore begins to make a session, unless there are enough.
func (p *pool) makeMore() {
	if p.making || p.sessions >= p.max {
		return
	}
	if p.enough > 0 && p.sessions >= p.enough && time.Now().Before(p.askAgain) {
		return
	}
	p.making = true
	// It is for whoever wants one when it is there, so it does not end with the call that began it.
	p.dialing.Go(func() {
		s, err := p.open(p.ended)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.making = false
		if err == nil {
			p.made(s)
		} else {
			p.failed(err)
		}
		p.notify()
	})
}

func (p *pool) made(s *session) {
	p.idle = append(p.idle, s)
	p.sessions++
	p.failure = nil
	if p.enough > 0 && p.sessions > p.enough {
		p.enough = 0
		p.pause.Reset()
	}
}

func (p *pool) failed(err error) {
	p.failures++
	p.failure = err
	if p.sessions == 0 {
		return
	}
	if p.enough != p.sessions {
		p.log.Warn("no further connection to RabbitMQ is to be had, going on with those that are "+
			"there (connections in the URL sets how many are wanted)",
			"connections", p.sessions, "error", err)
	}
	p.enough = p.sessions
	p.askAgain = time.Now().Add(p.pause.NextBackOff())
}

// put gives a session back.
func (p *pool) put(s *session) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = append(p.idle, s)
	p.notify()
}

// lose says that a session has ended.
func (p *pool) lose() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sessions--
	p.notify()
}

func (p *pool) notify() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// close says goodbye to idle sessions, which are all of them when no call is under way.
func (p *pool) close() {
	p.dialing.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	var goodbyes sync.WaitGroup
	for _, s := range p.idle {
		goodbyes.Go(s.conn.close)
	}
	goodbyes.Wait()
	p.idle = nil
}
