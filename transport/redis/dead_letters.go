package redis

import (
	"context"
	"errors"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/transport"
)

var _ transport.DeadLetterBox = (*Subscriber)(nil)

// DeadLetterQueue implements transport.DeadLetterBox.
func (s *Subscriber) DeadLetterQueue() string { return deadLetterQueue(s.config.Queue) }

// EachDeadLetter implements transport.DeadLetterBox. Dead letters are read where they are in the
// stream, so they keep their places whatever happens.
func (s *Subscriber) EachDeadLetter(
	ctx context.Context, queue string, visit func(transport.DeadLetter) (more bool, err error),
) error {
	last, from := "+", "-"
	for {
		var next []entry
		err := s.onDeadLetters(ctx, queue, func(ctx context.Context) error {
			if last == "+" { // what comes later waits for the next time
				newest, err := s.client.XRevRangeN(ctx, s.config.Prefix+"messages:"+queue, "+", "-",
					1).Result()
				if err != nil {
					return err
				}
				if len(newest) > 0 {
					last = newest[0].ID
				}
			}
			answer, err := letterScript.Run(ctx, s.client, nil, s.config.Prefix, queue, from,
				last).Result()
			next = entries(answer)
			return err
		})
		if err != nil || len(next) == 0 {
			return err
		}
		from = "(" + next[0].id
		if more, err := visit(s.letter(ctx, queue, next[0])); err != nil || !more {
			return err
		}
	}
}

// PurgeDeadLetters implements transport.DeadLetterBox.
func (s *Subscriber) PurgeDeadLetters(ctx context.Context, queue string) (int, error) {
	purged := make(chan int, 1) // for do may go on when ctx has ended
	err := s.onDeadLetters(ctx, queue, func(ctx context.Context) error {
		n, err := discardScript.Run(ctx, s.client, nil, s.config.Prefix, queue).Int()
		purged <- n
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-purged, nil
}

func (s *Subscriber) onDeadLetters(
	ctx context.Context, queue string, do func(ctx context.Context) error,
) error {
	err := s.call(ctx, func(ctx context.Context) error { return explain(ctx, do(ctx)) })
	if errors.Is(err, transport.ErrNoQueue) {
		err = transport.ErrNoDeadLetters
	}
	if err != nil {
		return fmt.Errorf("dead letters in queue %s: %w", queue, err)
	}
	return nil
}

func (s *Subscriber) letter(ctx context.Context, queue string, e entry) transport.DeadLetter {
	msg := e.message(queue)
	delete(msg.Metadata, transport.DirectKey)
	msg.SetContext(ctx)
	remove := func() error {
		return s.onDeadLetters(ctx, queue, func(ctx context.Context) error {
			return discardScript.Run(ctx, s.client, nil, s.config.Prefix, queue, e.id).Err()
		})
	}
	return transport.DeadLetter{
		Message: msg,
		Remove:  remove,
		SendAgain: func(topic string, m *message.Message) error {
			if err := s.publish(ctx, topic, m); err != nil {
				return fmt.Errorf("send a dead letter to %s: %w", topic, err)
			}
			return remove()
		},
	}
}

// publish returns when a queue has the message.
func (s *Subscriber) publish(ctx context.Context, topic string, m *message.Message) error {
	arguments, err := s.config.arguments(topic, m)
	if err != nil {
		return err
	}
	return s.call(ctx, func(ctx context.Context) error {
		answer := publishScript.Run(ctx, s.client, nil, append(s.config.head(), arguments...)...)
		results, err := resultsOf(answer, 1)
		taken, err := results.of(0, err)
		if err != nil {
			return refusal(ctx, err)
		}
		if taken == 0 {
			return transport.ErrUnroutable
		}
		return nil
	})
}
