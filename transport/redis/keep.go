package redis

import (
	"context"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

var (
	_ transport.QueueKeeper = (*Subscriber)(nil)
	_ transport.Registrar   = (*Subscriber)(nil)
)

// HasQueue implements transport.QueueFinder.
func (s *Subscriber) HasQueue(ctx context.Context) (bool, error) {
	_, err := s.Waiting(ctx)
	if errors.Is(err, transport.ErrNoQueue) {
		return false, nil
	}
	return err == nil, err
}

// Waiting implements transport.QueueKeeper.
func (s *Subscriber) Waiting(ctx context.Context) (n int64, err error) {
	err = s.onQueue(ctx, "look into", func(ctx context.Context) error {
		found, err := waitingScript.Run(ctx, s.client, nil, s.config.Prefix, s.config.Queue,
			inbox.Expires.Milliseconds()).Int64()
		if err == nil && found < 0 {
			return transport.ErrNoQueue
		}
		n = found
		return explain(ctx, err)
	})
	return n, err
}

// KeepQueue implements transport.QueueKeeper.
func (s *Subscriber) KeepQueue(ctx context.Context, topics []string) error {
	return s.onQueue(ctx, "keep", func(ctx context.Context) error {
		if err := names.RequireOneQueue(s.Queue, topics); err != nil {
			return err
		}
		return s.bind(ctx, topics)
	})
}

// BindQueue implements transport.QueueKeeper.
func (s *Subscriber) BindQueue(ctx context.Context, topics []string) error {
	return s.onQueue(ctx, "bind", func(ctx context.Context) error {
		if err := names.RequireOneQueue(s.Queue, topics); err != nil {
			return err
		}
		there, err := s.bindQueue(ctx, s.config.Queue, topics, false)
		if err == nil && !there {
			err = transport.ErrNoQueue
		}
		return err
	})
}

// Register implements transport.Registrar. Subscribers without a queue of their own keep no note.
func (s *Subscriber) Register(ctx context.Context, database string) (before string, err error) {
	if s.config.Queue == "" {
		return "", nil
	}
	err = s.onQueue(ctx, "note the database behind", func(ctx context.Context) (err error) {
		before, err = registerScript.Run(ctx, s.client, nil, s.config.Prefix, s.config.Queue,
			database).Text()
		return explain(ctx, err)
	})
	if err != nil {
		return "", err
	}
	return before, nil
}

// onQueue does what verb says with the subscriber's queue.
func (s *Subscriber) onQueue(
	ctx context.Context, verb string, do func(ctx context.Context) error,
) error {
	if err := names.RequireName(s.config.Queue); err != nil {
		return fmt.Errorf("%s a queue: %w", verb, err)
	}
	if err := s.call(ctx, do); err != nil {
		return fmt.Errorf("%s the queue %s: %w", verb, s.config.Queue, err)
	}
	return nil
}
