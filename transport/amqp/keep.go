package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/transport"
	names "github.com/cqrsync/cqrsync/transport/internal/topics"
)

var _ transport.QueueKeeper = (*Subscriber)(nil)

// HasQueue implements transport.QueueFinder: it looks whether the queue is there, and makes
// nothing.
func (s *Subscriber) HasQueue(ctx context.Context) (bool, error) {
	_, err := s.inspect(ctx)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, transport.ErrNoQueue):
		return false, nil
	default:
		return false, err
	}
}

// Waiting implements transport.QueueKeeper.
func (s *Subscriber) Waiting(ctx context.Context) (int64, error) {
	state, err := s.inspect(ctx)
	return int64(state.Messages), err
}

// KeepQueue implements transport.QueueKeeper. The user needs the permissions that a consumer of the
// queue needs, except that to read it. Where Config.NoDeclare is set, whether the queue is bound to
// the topics remains unknown: RabbitMQ does not say.
//
// A queue that exists with other properties, a quorum queue say, is bound as it is, without the
// queue of its dead letters, and that is logged.
func (s *Subscriber) KeepQueue(ctx context.Context, topics []string) error {
	return s.onQueue(ctx, "keep", topics, s.keep)
}

// BindQueue implements transport.QueueKeeper. Other properties than the URL would give the queue
// stay unnoticed here: RabbitMQ tells of them only to who would make it.
func (s *Subscriber) BindQueue(ctx context.Context, topics []string) error {
	return s.onQueue(ctx, "bind", topics,
		func(ctx context.Context, queue string, topics []string) error {
			if s.config.NoDeclare {
				return s.keep(ctx, queue, topics)
			}
			return noQueue(s.bindAsItIs(ctx, queue, topics))
		})
}

// onQueue does what verb says with the subscriber's queue.
func (s *Subscriber) onQueue(
	ctx context.Context, verb string, topics []string,
	do func(ctx context.Context, queue string, topics []string) error,
) error {
	queue := s.config.Queue.GenerateName("")
	err := errors.Join(names.RequireName(queue), names.RequireOneQueue(s.Queue, topics))
	if err != nil {
		return fmt.Errorf("%s a queue: %w", verb, err)
	}
	_, err = promptly(ctx, s, func(ctx context.Context) (none struct{}, err error) {
		return none, do(ctx, queue, topics)
	})
	if err != nil {
		return fmt.Errorf("%s the queue %s: %w", verb, queue, err)
	}
	return nil
}

func (s *Subscriber) keep(ctx context.Context, queue string, topics []string) error {
	if s.config.NoDeclare {
		_, err := s.inspectQueue(ctx, queue)
		if errors.Is(err, transport.ErrNoQueue) {
			return fmt.Errorf("%w: make it, durable, and bind it to the exchange %s by each topic "+
				"(%s) and its direct topic (%s), or leave declare=false out of the URL", err,
				s.config.Exchange.GenerateName(topics[0]), names.Name(topics),
				transport.DirectTopic(queue, topics[0]))
		}
		return err
	}
	refused := s.build(ctx, topics)
	_, own := s.config.TopologyBuilder.(TopologyBuilder)
	if !own || serverCode(refused) != amqp091.PreconditionFailed {
		return refused
	}
	err := s.bindAsItIs(ctx, queue, topics)
	if serverCode(err) == amqp091.NotFound {
		return refused // the queue is not there: it was the exchange
	}
	if err == nil && !s.warned.Swap(true) {
		s.config.Logger.WarnContext(ctx,
			"a queue that is kept for a replica has other properties than the URL would give it: "+
				"it is bound, but if it were deleted, it would be made as the URL says, and the "+
				"replica could not use it; give the URL the replica's queue_type",
			"queue", queue, "error", refused)
	}
	return err
}

// build declares exchange, queue and bindings, or looks whether the queue is there where somebody
// else makes it.
func (s *Subscriber) build(ctx context.Context, topics []string) error {
	return s.withChannel(ctx, func(conn *connection, channel *amqp091.Channel) error {
		if err := s.declare(ctx, conn, channel, topics); err != nil {
			return err
		}
		return s.limited(conn, func() error {
			if s.config.NoDeclare {
				if _, err := passive(channel, s.Queue(topics[0])); err != nil {
					return err
				}
			}
			return channel.Close()
		})
	})
}

// bindAsItIs binds a queue that exists, and declares nothing but the exchange.
func (s *Subscriber) bindAsItIs(ctx context.Context, queue string, topics []string) error {
	exchange := s.config.Exchange.GenerateName
	return s.withChannel(ctx, func(conn *connection, channel *amqp091.Channel) error {
		err := s.limited(conn, func() error {
			if _, err := passive(channel, queue); err != nil {
				return err
			}
			return s.config.TopologyBuilder.ExchangeDeclare(channel, exchange(topics[0]),
				s.config.Config)
		})
		for some := range slices.Chunk(topics, topicsAtOnce) {
			if err = errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			err = s.limited(conn, func() error {
				for i, topic := range some {
					key := s.config.QueueBind.GenerateRoutingKey(topic)
					last := i == len(some)-1 // its answer is that to all
					err := bindQueues(channel, exchange(topic), s.config.Config, !last,
						binding{queue, key}, binding{queue, transport.DirectTopic(queue, key)})
					if err != nil {
						return err
					}
				}
				return nil
			})
		}
		if err != nil {
			return err
		}
		return s.limited(conn, channel.Close)
	})
}

// inspect returns the state of the subscriber's queue.
func (s *Subscriber) inspect(ctx context.Context) (amqp091.Queue, error) {
	queue := s.config.Queue.GenerateName("")
	if err := names.RequireName(queue); err != nil {
		return amqp091.Queue{}, fmt.Errorf("look for a queue: %w", err)
	}
	state, err := promptly(ctx, s, func(ctx context.Context) (amqp091.Queue, error) {
		return s.inspectQueue(ctx, queue)
	})
	if err != nil {
		return amqp091.Queue{}, fmt.Errorf("look for the queue %s: %w", queue, err)
	}
	return state, nil
}

func (s *Subscriber) inspectQueue(
	ctx context.Context, queue string,
) (state amqp091.Queue, err error) {
	err = s.withChannel(ctx, func(conn *connection, channel *amqp091.Channel) error {
		return s.limited(conn, func() (err error) {
			if state, err = passive(channel, queue); err != nil {
				return err
			}
			return channel.Close()
		})
	})
	return state, noQueue(err)
}

// noQueue returns err as transport.ErrNoQueue where it says that. A queue whose node is down is not
// found either, but RabbitMQ then says so in other words.
func noQueue(err error) error {
	var reason *amqp091.Error
	if errors.As(err, &reason) && serverCode(reason) == amqp091.NotFound &&
		strings.Contains(reason.Reason, "no queue") {
		return fmt.Errorf("%w (%s)", transport.ErrNoQueue, reason.Reason)
	}
	return err
}

func passive(channel *amqp091.Channel, queue string) (amqp091.Queue, error) {
	return channel.QueueDeclarePassive(queue, true, false, false, false, nil)
}

// promptly returns when ctx ends, also where the broker does not answer, or when the subscriber is
// closed. What do has begun by then goes on until the broker has had its time, and Close waits for
// it.
func promptly[T any](
	ctx context.Context, s *Subscriber, do func(context.Context) (T, error),
) (T, error) {
	type result struct {
		value T
		err   error
	}
	var none T
	if !s.begin() {
		return none, errSubscriberClosed
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ended, func() { cancel(errSubscriberClosed) })()
	done := make(chan result, 1)
	go func() {
		defer s.users.Done()
		value, err := do(ctx)
		done <- result{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, fmt.Errorf("%w: %w", transport.ErrUnavailable, context.Cause(ctx))
	}
}
