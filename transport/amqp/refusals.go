package amqp

import (
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// refusals remembers the destinations to which the broker refused messages, and when to try each
// again. Every try costs the messages beside it their channel, so it is not made for each message.
type refusals struct {
	newPause func() *backoff.ExponentialBackOff

	mu    sync.Mutex
	known map[route]*refusal
}

type refusal struct {
	reason error
	retry  time.Time
	pause  *backoff.ExponentialBackOff
}

func newRefusals(config Config) *refusals {
	return &refusals{newPause: func() *backoff.ExponentialBackOff { return newBackOff(config) },
		known: map[route]*refusal{}}
}

// note that the broker refused a message to a destination.
func (r *refusals) note(to route, reason error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known[to] == nil {
		r.known[to] = &refusal{pause: r.newPause()}
	}
	r.known[to].reason = reason
	r.known[to].retry = time.Now().Add(r.known[to].pause.NextBackOff())
}

// forget a destination: the broker took a message to it.
func (r *refusals) forget(to route) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, to)
}

// ask why nothing goes to a destination, nil if something may; doubtful says that it was refused
// the last time.
func (r *refusals) ask(to route) (reason error, doubtful bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.known[to]
	switch {
	case known == nil:
		return nil, false
	case time.Now().Before(known.retry):
		return known.reason, true
	default:
		return nil, true
	}
}
