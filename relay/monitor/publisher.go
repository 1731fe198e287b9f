package monitor

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

// publications is what became of messages that were handed to the publisher.
type publications struct {
	confirmed, returned, nacked, refused, unknown atomic.Int64

	lastConfirm atomic.Int64 // nanoseconds since 1970, 0 before the first
	outage      atomic.Pointer[outage]
	unroutable  atomic.Pointer[func() map[string]int64]
}

// outage is the time since which the broker confirmed nothing, and why.
type outage struct {
	since time.Time
	err   error
}

// Publisher returns p with everything counted that goes through it. Give it to relay.New.
func (m *Monitor) Publisher(p message.Publisher) transport.BatchPublisher {
	if u, ok := p.(interface{ Unroutable() map[string]int64 }); ok {
		ask := u.Unroutable
		m.published.unroutable.Store(&ask)
	}
	if c, ok := p.(transport.Checker); ok {
		m.contact.mu.Lock()
		m.contact.checker = c
		m.contact.mu.Unlock()
		return checkedPublisher{watchedPublisher{transport.Batch(p), m}, c}
	}
	return watchedPublisher{transport.Batch(p), m}
}

// checkedPublisher passes the question on, for the relay.
type checkedPublisher struct {
	watchedPublisher
	transport.Checker
}

type watchedPublisher struct {
	transport.BatchPublisher
	monitor *Monitor
}

func (p watchedPublisher) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	start := time.Now()
	errs := p.BatchPublisher.PublishBatch(ctx, batch)
	p.monitor.batches.observe(len(batch), time.Since(start))
	p.monitor.published.note(errs)
	return errs
}

func (p *publications) note(errs []error) {
	var confirmed, returned, nacked, refused, unknown int64
	var away error
	for _, err := range errs {
		switch {
		case err == nil:
			confirmed++
		case errors.Is(err, transport.ErrUnavailable):
			unknown++
			away = err
		case errors.Is(err, transport.ErrUnroutable):
			returned++
		case errors.Is(err, transport.ErrRejected):
			nacked++
		default:
			refused++
		}
	}
	p.confirmed.Add(confirmed)
	p.returned.Add(returned)
	p.nacked.Add(nacked)
	p.refused.Add(refused)
	p.unknown.Add(unknown)
	if confirmed > 0 {
		p.lastConfirm.Store(time.Now().UnixNano())
	}
	switch {
	case away == nil:
		p.outage.Store(nil)
	case confirmed > 0 || p.outage.Load() == nil:
		p.outage.Store(&outage{time.Now(), away})
	default:
		p.outage.Store(&outage{p.outage.Load().since, away})
	}
}
