package kafka

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
func (s *Subscriber) HasQueue(ctx context.Context) (has bool, err error) {
	err = s.onQueue(ctx, "look for", func(ctx context.Context, q queues) error {
		bound, err := q.bound(ctx, s.config.Queue)
		has = len(bound) > 0
		return err
	})
	return has, err
}

// Waiting implements transport.QueueKeeper. What has expired counts until somebody comes to read
// it.
func (s *Subscriber) Waiting(ctx context.Context) (n int64, err error) {
	err = s.onQueue(ctx, "look into", func(ctx context.Context, q queues) error {
		n, err = q.waiting(ctx, s.config.Queue)
		return err
	})
	return n, err
}

func (q queues) waiting(ctx context.Context, queue string) (n int64, err error) {
	bound, err := q.bound(ctx, queue)
	if err != nil {
		return 0, err
	}
	if len(bound) == 0 {
		return 0, transport.ErrNoQueue
	}
	committed, err := q.committed(ctx, q.config.progressGroup(queue))
	if err != nil {
		return 0, err
	}
	begin, end := offsets{}, offsets{}
	err = errors.Join(
		q.list(ctx, q.admin.ListStartOffsets, bound.topics(), begin),
		q.list(ctx, q.admin.ListEndOffsets, bound.topics(), end))
	if err != nil {
		return 0, err
	}
	for topic, partitions := range end {
		for number, last := range partitions {
			from, _ := bound.at(topic, number)
			first, _ := begin.at(topic, number)
			p := progressOf(committed, topic, number, from).notBefore(first)
			if isInboxTopic(queue) {
				p = p.notBefore(last - inbox.Most)
			}
			n += p.waiting(last)
		}
	}
	return n, nil
}

// KeepQueue implements transport.QueueKeeper.
func (s *Subscriber) KeepQueue(ctx context.Context, topics []string) error {
	return s.keep(ctx, "keep", topics, s.bind)
}

// BindQueue implements transport.QueueKeeper.
func (s *Subscriber) BindQueue(ctx context.Context, topics []string) error {
	return s.keep(ctx, "bind", topics, func(ctx context.Context, q queues, topics []string) error {
		return s.bindQueue(ctx, q, topics, false)
	})
}

func (s *Subscriber) keep(
	ctx context.Context, verb string, topics []string,
	do func(ctx context.Context, q queues, topics []string) error,
) error {
	return s.onQueue(ctx, verb, func(ctx context.Context, q queues) error {
		if err := names.RequireOneQueue(s.Queue, topics); err != nil {
			return err
		}
		return do(ctx, q, topics)
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

// Register implements transport.Registrar. Subscribers without a queue of their own keep no note.
// Between reading the note and writing the next one, another process may do the same; the next call
// finds what that one wrote.
func (s *Subscriber) Register(ctx context.Context, database string) (before string, err error) {
	if s.config.Queue == "" {
		return "", nil
	}
	err = s.onQueue(ctx, "note the database behind", func(ctx context.Context, q queues) error {
		before, err = q.register(ctx, s.config.Queue, database)
		return err
	})
	if err != nil {
		return "", err
	}
	return before, nil
}

// register reads and replaces the text beside the offset of a group that reads nothing.
func (q queues) register(ctx context.Context, queue, database string) (before string, err error) {
	topic, group := q.config.notesTopic(), q.config.noteGroup(queue)
	noted, err := q.committed(ctx, group)
	if err != nil {
		return "", err
	}
	last, found := noted.Lookup(topic, 0)
	if found && last.Err == nil {
		before = last.Metadata
	}
	if before == "" {
		notes := []place{{name: topic, partitions: 1}}
		if err := q.create(ctx, notes); err != nil {
			return "", err
		}
		if _, err := q.starts(ctx, notes); err != nil {
			return "", err
		}
	}
	return before, q.note(ctx, group, offsets{topic: {0: 0}}, database)
}
