package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/ThreeDotsLabs/watermill/message"
	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.DeadLetterBox = (*Subscriber)(nil)

// DeadLetterQueue implements transport.DeadLetterBox.
func (s *Subscriber) DeadLetterQueue() string { return deadLetterQueue(s.config.Queue) }

// EachDeadLetter implements transport.DeadLetterBox. They are read where they are in the stream,
// so they keep their places whatever happens. The user needs the permission to read and to
// delete messages of the stream.
func (s *Subscriber) EachDeadLetter(
	ctx context.Context, queue string, visit func(transport.DeadLetter) (more bool, err error),
) error {
	return s.onDeadLetters(ctx, queue, func(ctx context.Context, b deadLetterBox) error {
		for next := b.first; ; next++ {
			raw, err := b.stream.GetMsg(ctx, next, jetstream.WithGetMsgSubject(b.filter))
			if errors.Is(err, jetstream.ErrMsgNotFound) || err == nil && raw.Sequence > b.last {
				return nil
			}
			if err != nil {
				return explain(ctx, err)
			}
			next = raw.Sequence
			if more, err := visit(b.letter(ctx, raw)); err != nil || !more {
				return err
			}
		}
	})
}

// PurgeDeadLetters implements transport.DeadLetterBox.
func (s *Subscriber) PurgeDeadLetters(ctx context.Context, queue string) (purged int, err error) {
	err = s.onDeadLetters(ctx, queue, func(ctx context.Context, b deadLetterBox) error {
		before, err := b.count(ctx)
		if err != nil {
			return err
		}
		if err := b.stream.Purge(ctx, jetstream.WithPurgeSubject(b.filter)); err != nil {
			return explain(ctx, err)
		}
		purged = int(before) //nolint:gosec // of messages on a disk
		return nil
	})
	return purged, err
}

// deadLetterBox is a queue of dead letters, as it was when somebody began to look.
type deadLetterBox struct {
	subscriber  *Subscriber
	queues      queues
	stream      jetstream.Stream
	filter      string
	first, last uint64
}

// onDeadLetters calls do with a queue that is for letters alone: what is in another one's
// subjects may be acknowledged, and wait for others.
func (s *Subscriber) onDeadLetters(
	ctx context.Context, queue string, do func(ctx context.Context, b deadLetterBox) error,
) error {
	err := s.use(ctx, func(ctx context.Context) error {
		q, err := s.connected(ctx)
		if err != nil {
			return err
		}
		if err := checkQueue(queue); err != nil {
			return err
		}
		info, err := q.lookup(ctx, s.config.Stream, queue)
		if errors.Is(err, transport.ErrNoQueue) {
			return transport.ErrNoDeadLetters
		}
		if err != nil {
			return err
		}
		b := deadLetterBox{subscriber: s, queues: q, filter: directSubjects(s.config.Stream, queue)}
		own := strings.TrimSuffix(b.filter, ">")
		subjects := append(slices.Clone(info.Config.FilterSubjects), info.Config.FilterSubject)
		for _, subject := range subjects {
			if subject != "" && !strings.HasPrefix(subject, own) {
				return fmt.Errorf("it is bound to %s too: want a queue of dead letters, as %s",
					subject, deadLetterQueue(queue))
			}
		}
		if b.stream, err = q.js.Stream(ctx, s.config.Stream); err != nil {
			return explain(ctx, err)
		}
		state := b.stream.CachedInfo().State
		b.first, b.last = max(1, state.FirstSeq), state.LastSeq
		return do(ctx, b)
	})
	if err != nil {
		return fmt.Errorf("dead letters in queue %s: %w", queue, err)
	}
	return nil
}

// connected returns a connection for calls that take as long as an operator does.
func (s *Subscriber) connected(ctx context.Context) (q queues, err error) {
	err = s.within(ctx, func(_ context.Context, made queues) error {
		q = made
		return nil
	})
	return q, err
}

func (b deadLetterBox) count(ctx context.Context) (n uint64, err error) {
	info, err := b.stream.Info(ctx, jetstream.WithSubjectFilter(b.filter))
	if err != nil {
		return 0, explain(ctx, err)
	}
	for _, of := range info.State.Subjects {
		n += of
	}
	return n, nil
}

func (b deadLetterBox) letter(
	ctx context.Context, raw *jetstream.RawStreamMsg,
) transport.DeadLetter {
	m := &natsgo.Msg{Subject: raw.Subject, Header: raw.Header, Data: raw.Data}
	msg := decode(m, fmt.Sprintf("%s:%d", b.subscriber.config.Stream, raw.Sequence))
	msg.SetContext(ctx)
	remove := func() error {
		return explain(ctx, b.stream.DeleteMsg(ctx, raw.Sequence))
	}
	return transport.DeadLetter{
		Message: msg,
		Remove:  remove,
		SendAgain: func(topic string, m *message.Message) error {
			if err := b.send(ctx, topic, m); err != nil {
				return fmt.Errorf("send a letter to %s: %w", topic, err)
			}
			return remove()
		},
	}
}

// send publishes a message, without an id: who sends it again means it. It returns when the stream
// has it for a queue.
func (b deadLetterBox) send(ctx context.Context, topic string, m *message.Message) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	stream := streamOf(b.subscriber.config.Stream, topic)
	msg, err := encode(subject(stream, topic), m)
	if err != nil {
		return err
	}
	known, err := look(ctx, b.queues.js, stream)
	if err != nil {
		return explain(ctx, err)
	}
	if !known.filters.match(msg.Subject) {
		return transport.ErrUnroutable
	}
	_, err = b.queues.js.PublishMsg(ctx, msg, jetstream.WithRetryAttempts(0))
	return explain(ctx, err)
}
