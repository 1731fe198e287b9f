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
	watched := watchedPublisher{transport.Batch(p), m}
	if prober, ok := p.(transport.Prober); ok {
		m.contact.mu.Lock()
		m.contact.prober = prober
		m.contact.mu.Unlock()
		return probedPublisher{watched, prober}
	}
	return watched
}

// probedPublisher is one that the relay can ask, too. It is not what cannot answer: the relay would
// take that for yes.
type probedPublisher struct {
	watchedPublisher
	prober transport.Prober
}

// Probe implements transport.Prober. It counts nothing.
func (p probedPublisher) Probe(ctx context.Context) error {
	err := p.prober.Probe(ctx)
	p.monitor.published.reach(false, err)
	return err
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
	p.reach(confirmed > 0, away)
}

// reach notes whether the broker is away, and since when: from now on, if it was there a moment
// ago.
func (p *publications) reach(there bool, away error) {
	switch before := p.outage.Load(); {
	case away == nil:
		p.outage.Store(nil)
	case there || before == nil:
		p.outage.Store(&outage{time.Now(), away})
	default:
		p.outage.Store(&outage{before.since, away})
	}
}
