package memory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/transport"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

var _ transport.QueueKeeper = (*Subscriber)(nil)

// HasQueue implements transport.QueueFinder.
func (s *Subscriber) HasQueue(ctx context.Context) (has bool, err error) {
	err = s.use(ctx, func() error {
		s.broker.mu.Lock()
		defer s.broker.mu.Unlock()
		s.broker.removeIdle(time.Now())
		has = s.broker.queues[s.queue] != nil
		return nil
	})
	return has, err
}

// KeepQueue implements transport.QueueKeeper.
func (s *Subscriber) KeepQueue(ctx context.Context, topics []string) error {
	return s.use(ctx, func() error {
		if err := names.RequireOneQueue(s.Queue, topics); err != nil {
			return err
		}
		s.broker.bind(s.queue, topics...)
		return nil
	})
}

// BindQueue implements transport.QueueKeeper.
func (s *Subscriber) BindQueue(ctx context.Context, topics []string) error {
	return s.use(ctx, func() error {
		if err := names.RequireOneQueue(s.Queue, topics); err != nil {
			return err
		}
		b := s.broker
		b.mu.Lock()
		defer b.mu.Unlock()
		q := b.queues[s.queue]
		if q == nil {
			return s.noQueue()
		}
		b.connect(q, topics)
		return nil
	})
}

func (s *Subscriber) noQueue() error {
	return fmt.Errorf("%w: %q", transport.ErrNoQueue, s.queue)
}

// Waiting implements transport.QueueKeeper.
func (s *Subscriber) Waiting(ctx context.Context) (n int64, err error) {
	err = s.use(ctx, func() error {
		s.broker.mu.Lock()
		defer s.broker.mu.Unlock()
		now := time.Now()
		s.broker.removeIdle(now)
		q := s.broker.queues[s.queue]
		if q == nil {
			return s.noQueue()
		}
		for _, entries := range [][]entry{q.returned, q.fresh} {
			for _, e := range entries {
				if !e.expired(now) {
					n++
				}
			}
		}
		return nil
	})
	return n, err
}

// use calls do if the subscriber has a named queue and is open, and ctx has not ended.
func (s *Subscriber) use(ctx context.Context, do func() error) error {
	if err := names.RequireName(s.queue); err != nil {
		return err
	}
	if err := transport.Ended(ctx); err != nil {
		return errors.Join(transport.ErrUnavailable, err)
	}
	return s.subscriptions.Use(do)
}
