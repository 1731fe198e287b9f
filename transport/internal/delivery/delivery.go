// Package delivery runs the subscriptions of the embedded transports: it takes messages from a
// queue, hands them out on a channel, at most a window of them at a time, and settles each by its
// ack or nack.
//
// Neighbours: transport/sqlite and transport/memory each bring a Queue; the rest of a subscriber is
// here.
package delivery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
)

// Queue is a queue as one consumer sees it. One goroutine calls its methods.
type Queue interface {
	// Exchange deletes the acked messages, puts the returned ones back where they stood, and takes
	// up to room messages, oldest first. After an error nothing has happened, and it is called
	// again with the same messages.
	Exchange(ctx context.Context, acked, returned []int64, room int) ([]Taken, error)
	// Ready receives when Exchange may find messages that it did not find before.
	Ready() <-chan struct{}
	// Leave deletes the acked messages and puts back everything else this consumer has taken. It is
	// the last call.
	Leave(ctx context.Context, acked []int64) error
}

// Taken is a message that nobody else gets until it is settled.
type Taken struct {
	ID      int64 // its position in the queue
	Message *message.Message
}

// ErrClosed is returned for what is asked of a subscriber that has been closed.
var ErrClosed = errors.New("the subscriber is closed")

// Subscriptions are those of one subscriber.
type Subscriptions struct {
	// NackDelay is how long a nacked message keeps its place in the window before it returns to the
	// queue: without it a failing handler would spin.
	NackDelay time.Duration
	Logger    *slog.Logger

	mu      sync.Mutex
	open    map[*subscription]context.CancelFunc
	closed  bool
	running sync.WaitGroup
}

// Start joins a queue and delivers from it until ctx ends or Close is called; then the channel
// closes.
func (s *Subscriptions) Start(
	ctx context.Context, window int, join func(context.Context) (Queue, error),
) (<-chan *message.Message, error) {
	if window < 1 {
		return nil, fmt.Errorf("the window is %d messages, want at least 1", window)
	}
	ctx, cancel := context.WithCancel(ctx)
	sub := &subscription{
		window:    window,
		nackDelay: s.NackDelay,
		logger:    s.Logger,
		out:       make(chan *message.Message),
		settled:   make(chan delivered),
	}
	if !s.add(sub, cancel) {
		cancel()
		return nil, ErrClosed
	}
	var err error
	if sub.queue, err = join(ctx); err != nil {
		s.remove(sub)
		return nil, err
	}
	go func() {
		defer s.remove(sub)
		sub.run(ctx)
	}()
	return sub.out, nil
}

func (s *Subscriptions) add(sub *subscription, cancel context.CancelFunc) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = map[*subscription]context.CancelFunc{}
	}
	s.open[sub] = cancel
	s.running.Add(1)
	return true
}

func (s *Subscriptions) remove(sub *subscription) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[sub]()
	delete(s.open, sub)
	s.running.Done()
}

// Use calls do, unless Close was called. Close waits until it returns.
func (s *Subscriptions) Use(do func() error) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	return do()
}

// Close ends all subscriptions and returns when they have left their queues. It tells whether it
// was the first call.
func (s *Subscriptions) Close() (first bool) {
	s.mu.Lock()
	first = !s.closed
	s.closed = true
	for _, cancel := range s.open {
		cancel()
	}
	s.mu.Unlock()
	s.running.Wait()
	return first
}
