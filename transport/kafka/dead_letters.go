package kafka

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
)

var _ transport.DeadLetterBox = (*Subscriber)(nil)

// DeadLetterQueue implements transport.DeadLetterBox.
func (s *Subscriber) DeadLetterQueue() string { return deadLetterQueue(s.config.Queue) }

// EachDeadLetter implements transport.DeadLetterBox. Dead letters are read where they are in the
// topic, so they keep their places whatever happens.
func (s *Subscriber) EachDeadLetter(
	ctx context.Context, queue string, visit func(transport.DeadLetter) (more bool, err error),
) error {
	err := s.subscriptions.Use(func() error {
		all, _, err := s.readDeadLetters(ctx, queue)
		if err != nil {
			return err
		}
		for _, r := range all {
			if err := transport.Ended(ctx); err != nil {
				return errors.Join(transport.ErrUnavailable, err)
			}
			if more, err := visit(s.letter(ctx, r)); err != nil || !more {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("dead letters in queue %s: %w", queue, err)
	}
	return nil
}

// PurgeDeadLetters implements transport.DeadLetterBox.
func (s *Subscriber) PurgeDeadLetters(ctx context.Context, queue string) (purged int, err error) {
	err = s.subscriptions.Use(func() error {
		all, end, err := s.readDeadLetters(ctx, queue)
		if err != nil {
			return err
		}
		return s.within(ctx, func(ctx context.Context, q queues) error {
			at := kadm.Offsets{}
			at.AddOffset(s.config.queueTopic(queue), 0, end, -1)
			deleted, err := q.admin.DeleteRecords(ctx, at)
			if err == nil {
				err = deleted.Error()
			}
			if err == nil { // what cannot be deleted like that is removed one by one
				purged = len(all)
				return nil
			}
			for _, r := range all {
				if err := s.removeDeadLetter(ctx, r); err != nil {
					return err
				}
				purged++
			}
			return nil
		})
	})
	if err != nil {
		return purged, fmt.Errorf("dead letters in queue %s: %w", queue, err)
	}
	return purged, nil
}

// readDeadLetters returns what is in a queue of dead letters, oldest first, and where it ends.
func (s *Subscriber) readDeadLetters(
	ctx context.Context, queue string,
) (all []*kgo.Record, end int64, err error) {
	if err := checkQueue(queue); err != nil {
		return nil, 0, err
	}
	var begin int64
	topic := s.config.queueTopic(queue)
	err = s.within(ctx, func(ctx context.Context, q queues) error {
		bound, err := q.bound(ctx, queue)
		switch {
		case err != nil:
			return err
		case len(bound) == 0:
			return transport.ErrNoDeadLetters
		case !isDeadLetterQueue(queue) || len(bound) > 1:
			return fmt.Errorf("it is bound to topics: want a queue of dead letters, as %s",
				deadLetterQueue(queue))
		}
		starts, ends := offsets{}, offsets{}
		if err := q.list(ctx, q.admin.ListStartOffsets, []string{topic}, starts); err != nil {
			return err
		}
		begin, _ = starts.at(topic, 0)
		err = q.list(ctx, q.admin.ListEndOffsets, []string{topic}, ends)
		end, _ = ends.at(topic, 0)
		return err
	})
	if err != nil || begin >= end {
		return nil, end, err
	}
	all, err = s.scan(ctx, topic, begin, end)
	return all, end, err
}

// scanTimeout is how long brokers that answer may take to send what is there.
const scanTimeout = 5 * time.Second

// scan reads a partition up to its end, without what was removed from it.
func (s *Subscriber) scan(
	ctx context.Context, topic string, begin, end int64,
) (left []*kgo.Record, err error) {
	client, err := s.config.client("cqrsync-dead-letters", nil,
		kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{
			topic: {0: kgo.NewOffset().At(begin)},
		}),
		kgo.KeepControlRecords(), kgo.FetchMaxBytes(mostFetched))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	var all []*kgo.Record
	removed := map[string]bool{}
	for next := begin; next < end; {
		limited, cancel := bounded.Timeout(ctx, scanTimeout, nil)
		fetched := client.PollFetches(limited)
		err := fetched.Err()
		cancel()
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if err = s.within(ctx, func(ctx context.Context, _ queues) error {
				return explain(ctx, client.Ping(ctx))
			}); err == nil {
				break // compaction took what is behind
			}
		}
		if err != nil {
			return nil, explain(ctx, err)
		}
		fetched.EachRecord(func(r *kgo.Record) {
			next = r.Offset + 1
			switch {
			case r.Offset >= end || r.Attrs.IsControl():
			case r.Value == nil:
				removed[string(r.Key)] = true
			default:
				all = append(all, r)
			}
		})
	}
	now := time.Now()
	for _, r := range all {
		if !removed[string(r.Key)] && !expired(r, now) {
			left = append(left, r)
		}
	}
	return left, nil
}

func (s *Subscriber) letter(ctx context.Context, r *kgo.Record) transport.DeadLetter {
	msg := decode(r)
	msg.SetContext(ctx)
	remove := func() error { return s.removeDeadLetter(ctx, r) }
	return transport.DeadLetter{
		Message: msg,
		Remove:  remove,
		SendAgain: func(topic string, m *message.Message) error {
			err := s.letters.PublishBatch(ctx, []transport.Outgoing{{Topic: topic, Message: m}})[0]
			if err != nil {
				return fmt.Errorf("send a dead letter to %s: %w", topic, err)
			}
			return remove()
		},
	}
}

// removeDeadLetter writes that there is nothing any more under the key of a letter.
func (s *Subscriber) removeDeadLetter(ctx context.Context, r *kgo.Record) error {
	var failed error
	nothing := parcel{record: &kgo.Record{Topic: r.Topic, Key: r.Key, Partition: keyless}}
	err := s.letters.sessions.Use(ctx, func(ctx context.Context, session *session) error {
		return session.send(ctx, []parcel{nothing}, func(_ parcel, err error) { failed = err })
	})
	return errors.Join(err, failed)
}
