package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/transport"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

var _ transport.QueueKeeper = (*Subscriber)(nil)

const hasQueue = "SELECT EXISTS (SELECT 1 FROM bindings WHERE queue = ?)"

// HasQueue implements transport.QueueFinder: a queue is what is bound to a topic.
func (s *Subscriber) HasQueue(ctx context.Context) (has bool, err error) {
	err = s.withFile(ctx, func(h *handle) error {
		return h.reader.QueryRowContext(ctx, hasQueue, s.config.Queue).Scan(&has)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return has, err
}

// KeepQueue implements transport.QueueKeeper. It makes the file, too. Where all is as it should be,
// it only reads.
func (s *Subscriber) KeepQueue(ctx context.Context, topics []string) error {
	return s.bindQueue(ctx, topics, func(context.Context, transaction) error { return nil })
}

// BindQueue implements transport.QueueKeeper.
func (s *Subscriber) BindQueue(ctx context.Context, topics []string) error {
	has, err := s.HasQueue(ctx) // so that no file is made
	if err == nil && !has {
		err = s.noQueue()
	}
	if err != nil {
		return err
	}
	return s.bindQueue(ctx, topics, func(ctx context.Context, tx transaction) error {
		var has bool
		err := tx.QueryRowContext(ctx, hasQueue, s.config.Queue).Scan(&has)
		if err == nil && !has {
			err = s.noQueue()
		}
		return err
	})
}

func (s *Subscriber) noQueue() error {
	return fmt.Errorf("%w: %q", transport.ErrNoQueue, s.config.Queue)
}

// bindQueue binds the queue to topics, in a transaction that begins with first.
func (s *Subscriber) bindQueue(
	ctx context.Context, topics []string, first func(context.Context, transaction) error,
) error {
	if err := names.RequireOneQueue(s.Queue, topics); err != nil {
		return err
	}
	bound := false
	err := s.withFile(ctx, func(h *handle) (err error) {
		bound, err = isBound(ctx, h, s.config.Queue, topics)
		return err
	})
	if bound || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.subscriptions.Use(func() error {
		return s.file.write(ctx, made, durable, func(ctx context.Context, tx transaction) error {
			if err := first(ctx, tx); err != nil {
				return err
			}
			for _, topic := range topics {
				if err := bind(ctx, tx, s.config.Queue, topic); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// isBound says whether a queue is bound to topics and their direct topics.
func isBound(ctx context.Context, h *handle, queue string, topics []string) (bool, error) {
	var keys []string
	for _, topic := range topics {
		keys = append(keys, topic, transport.DirectTopic(queue, topic))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	text, err := json.Marshal(keys)
	if err != nil {
		return false, err
	}
	var bound int
	err = h.reader.QueryRowContext(ctx, `SELECT count(*) FROM bindings
		WHERE queue = ? AND topic IN (SELECT value FROM json_each(?))`, queue, string(text)).Scan(&bound)
	return bound == len(keys), err
}

// Waiting implements transport.QueueKeeper.
func (s *Subscriber) Waiting(ctx context.Context) (n int64, err error) {
	known := false
	err = s.withFile(ctx, func(h *handle) error {
		// The index has the first number, and the expired messages are few.
		return h.reader.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM bindings WHERE queue = ?1),
			(SELECT count(*) FROM messages WHERE consumer = 0 AND queue = ?1) -
			(SELECT count(*) FROM messages INDEXED BY messages_by_expiry
				WHERE expires_at > 0 AND expires_at <= ?2 AND consumer = 0 AND queue = ?1)`,
			s.config.Queue, time.Now().UnixMilli()).Scan(&known, &n)
	})
	if errors.Is(err, fs.ErrNotExist) || err == nil && !known {
		return 0, fmt.Errorf("%w: %q in SQLite file %s",
			transport.ErrNoQueue, s.config.Queue, s.file.path)
	}
	return n, err
}

// withFile calls do with the file that stands at the path, if the subscriber is open and has a
// named queue. The error is fs.ErrNotExist where there is no file.
func (s *Subscriber) withFile(ctx context.Context, do func(*handle) error) error {
	if err := names.RequireName(s.config.Queue); err != nil {
		return err
	}
	return s.subscriptions.Use(func() error {
		h, err := s.file.open(ctx, existing)
		if err == nil {
			err = s.file.check(ctx, h)
		}
		if err == nil {
			err = do(h)
		}
		return s.file.unavailable(err)
	})
}
