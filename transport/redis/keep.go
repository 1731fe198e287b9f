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
func (s *Subscriber) Waiting(ctx context.Context) (int64, error) {
	return ask(ctx, s, "look into", func(ctx context.Context) (int64, error) {
		found, err := waitingScript.Run(ctx, s.client, nil, s.config.Prefix, s.config.Queue,
			inbox.Expires.Milliseconds()).Int64()
		if err == nil && found < 0 {
			return 0, transport.ErrNoQueue
		}
		return found, explain(ctx, err)
	})
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
	return ask(ctx, s, "note the database behind", func(ctx context.Context) (string, error) {
		before, err := registerScript.Run(ctx, s.client, nil, s.config.Prefix, s.config.Queue,
			database).Text()
		return before, explain(ctx, err)
	})
}

// ask is onQueue for what has an answer. One that comes after ctx has ended goes nowhere.
func ask[T any](
	ctx context.Context, s *Subscriber, verb string, do func(ctx context.Context) (T, error),
) (answer T, err error) {
	answers := make(chan T, 1)
	err = s.onQueue(ctx, verb, func(ctx context.Context) error {
		answer, err := do(ctx)
		answers <- answer
		return err
	})
	if err != nil {
		return answer, err
	}
	return <-answers, nil
}

// onQueue does what verb says with the subscriber's queue. do may go on when ctx has ended: it must
// write to nothing that the caller reads then (see ask).
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
