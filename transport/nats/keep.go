package nats

import (
	"context"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/transport"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

var (
	_ transport.QueueKeeper = (*Subscriber)(nil)
	_ transport.Registrar   = (*Subscriber)(nil)
)

// HasQueue implements transport.QueueFinder.
func (s *Subscriber) HasQueue(ctx context.Context) (has bool, err error) {
	err = s.onQueue(ctx, "look for", func(ctx context.Context, q queues) error {
		_, err := q.lookup(ctx, s.home(), s.config.Queue)
		has = err == nil
		if errors.Is(err, transport.ErrNoQueue) {
			return nil
		}
		return err
	})
	return has, err
}

// Waiting implements transport.QueueKeeper. Messages that a consumer gave back are not counted: the
// server does not tell them from those that are in hands.
func (s *Subscriber) Waiting(ctx context.Context) (n int64, err error) {
	err = s.onQueue(ctx, "look into", func(ctx context.Context, q queues) error {
		info, err := q.lookup(ctx, s.home(), s.config.Queue)
		if err == nil {
			n = int64(info.NumPending) //nolint:gosec // of messages on a disk
		}
		return err
	})
	return n, err
}

// KeepQueue implements transport.QueueKeeper.
func (s *Subscriber) KeepQueue(ctx context.Context, topics []string) error {
	return s.keep(ctx, "keep", topics, func(ctx context.Context, q queues) error {
		return s.bind(ctx, q, topics)
	})
}

// BindQueue implements transport.QueueKeeper.
func (s *Subscriber) BindQueue(ctx context.Context, topics []string) error {
	return s.keep(ctx, "bind", topics, func(ctx context.Context, q queues) error {
		return q.bind(ctx, s.config.Queue, topics, false)
	})
}

func (s *Subscriber) keep(
	ctx context.Context, verb string, topics []string,
	do func(ctx context.Context, q queues) error,
) error {
	return s.onQueue(ctx, verb, func(ctx context.Context, q queues) error {
		if err := names.RequireOneQueue(s.Queue, topics); err != nil {
			return err
		}
		return do(ctx, q)
	})
}

// onQueue does what verb says with the subscriber's queue.
func (s *Subscriber) onQueue(
	ctx context.Context, verb string, do func(ctx context.Context, q queues) error,
) error {
	if err := names.RequireName(s.config.Queue); err != nil {
		return fmt.Errorf("%s a queue: %w", verb, err)
	}
	if err := s.call(ctx, do); err != nil {
		return fmt.Errorf("%s the queue %s: %w", verb, s.config.Queue, err)
	}
	return nil
}

// home returns the stream that the subscriber's queue is in.
func (s *Subscriber) home() string { return streamOf(s.config.Stream, s.config.Queue) }

// Register implements transport.Registrar. Subscribers without a queue of their own keep no note.
// Between reading the note and writing the next one, another process may do the same; the next call
// finds what that one wrote.
func (s *Subscriber) Register(ctx context.Context, database string) (before string, err error) {
	if s.config.Queue == "" {
		return "", nil
	}
	err = s.onQueue(ctx, "note the database behind", func(ctx context.Context, q queues) error {
		name := notesStream(s.config.Stream)
		note := subject(name, "database."+consumerName(s.config.Queue))
		_, last, _, err := q.note(ctx, name, note)
		if err != nil {
			return err
		}
		before = string(last)
		_, err = q.js.Publish(ctx, note, []byte(database))
		return explain(ctx, err)
	})
	if err != nil {
		return "", err
	}
	return before, nil
}
