package nats

import (
	"context"
	"errors"
	"fmt"
	"slices"

	natsgo "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// queues makes and binds consumers on one connection.
type queues struct {
	config Config
	nc     *natsgo.Conn
	js     jetstream.JetStream
}

// lookup returns a queue's consumer. The error is transport.ErrNoQueue where there is none.
func (q queues) lookup(ctx context.Context, stream, queue string) (*jetstream.ConsumerInfo, error) {
	consumer, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		return q.js.Consumer(ctx, stream, consumerName(queue))
	})
	if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("%w: %q", transport.ErrNoQueue, queue)
	}
	if err != nil {
		return nil, explain(ctx, err)
	}
	return consumer.CachedInfo(), nil
}

// subjects are what a queue is bound to for topics, each once.
func (q queues) subjects(queue string, topics []string) []string {
	all := make([]string, 0, 2*len(topics))
	for _, topic := range topics {
		all = append(all, subject(q.config.Stream, topic),
			subject(q.config.Stream, transport.DirectTopic(queue, topic)))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// bind makes the queue, where it may be made and is not there, and binds it to topics.
func (q queues) bind(ctx context.Context, queue string, topics []string, make bool) error {
	for _, topic := range topics {
		if err := checkTopic(topic); err != nil {
			return err
		}
		if isInboxTopic(topic) {
			return fmt.Errorf("topic %s is that of an inbox: a queue cannot be bound to it", topic)
		}
	}
	want := q.subjects(queue, topics)
	info, err := q.lookup(ctx, q.config.Stream, queue)
	switch {
	case err == nil && len(missing(info.Config, want)) == 0:
		return nil
	case err != nil && !errors.Is(err, transport.ErrNoQueue):
		return err
	case err != nil && !make:
		return err
	case q.config.NoDeclare:
		return q.unbound(queue, want, err)
	}
	return q.locked(ctx, queue, func(ctx context.Context) error {
		info, err := q.lookup(ctx, q.config.Stream, queue)
		switch {
		case err == nil:
			return q.extend(ctx, queue, info.Config, want)
		case !errors.Is(err, transport.ErrNoQueue) || !make:
			return err
		}
		return q.create(ctx, q.config.Stream, q.consumer(queue, want))
	})
}

func (q queues) create(
	ctx context.Context, stream string, config jetstream.ConsumerConfig,
) error {
	_, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		return q.js.CreateConsumer(ctx, stream, config)
	})
	return explain(ctx, err)
}

func (q queues) extend(
	ctx context.Context, queue string, config jetstream.ConsumerConfig, want []string,
) error {
	add := missing(config, want)
	if len(add) == 0 {
		return nil
	}
	if config.FilterSubject != "" {
		config.FilterSubjects, config.FilterSubject = []string{config.FilterSubject}, ""
	}
	config.FilterSubjects = append(config.FilterSubjects, add...)
	_, err := ask(ctx, func(ctx context.Context) (jetstream.Consumer, error) {
		return q.js.UpdateConsumer(ctx, q.config.Stream, config)
	})
	if errors.Is(err, jetstream.ErrConsumerDoesNotExist) ||
		errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("%w: %q", transport.ErrNoQueue, queue)
	}
	return explain(ctx, err)
}

func (q queues) consumer(queue string, subjects []string) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:        consumerName(queue),
		Description:    "cqrsync: queue " + queue,
		DeliverPolicy:  jetstream.DeliverNewPolicy,
		AckPolicy:      jetstream.AckExplicitPolicy,
		AckWait:        q.config.AckWait,
		MaxDeliver:     -1,
		MaxAckPending:  -1,
		FilterSubjects: subjects,
	}
}

// unbound says what somebody else has to make.
func (q queues) unbound(queue string, want []string, err error) error {
	advice := fmt.Sprintf("make the consumer %s of the stream %s with the filter subjects %s and "+
		"explicit acks, or leave declare=false out of the URL", consumerName(queue), q.config.Stream,
		some(want))
	if err != nil {
		return fmt.Errorf("%w: %s", err, advice)
	}
	return fmt.Errorf("the queue %q is not bound to all its topics: %s", queue, advice)
}

// some shows a few of many.
func some(all []string) string {
	if len(all) > 4 {
		return fmt.Sprintf("%v and %d more", all[:4], len(all)-4)
	}
	return fmt.Sprint(all)
}

// missing are the subjects that a consumer does not have.
func missing(config jetstream.ConsumerConfig, want []string) (add []string) {
	f := newFilters(config)
	for _, subject := range want {
		if !f.match(subject) {
			add = append(add, subject)
		}
	}
	return add
}

// keepDeadLetters makes the queue of a queue's dead letters, where it is not there.
func (q queues) keepDeadLetters(ctx context.Context, queue string) error {
	dead := deadLetterQueue(queue)
	_, err := q.lookup(ctx, q.config.Stream, dead)
	if !errors.Is(err, transport.ErrNoQueue) {
		return err
	}
	if q.config.NoDeclare {
		return nil // the queue itself is what matters, and a message for this one is refused
	}
	config := q.consumer(dead, []string{directSubjects(q.config.Stream, dead)})
	if err := q.create(ctx, q.config.Stream, config); err != nil {
		return fmt.Errorf("the queue of its dead letters: %w", err)
	}
	return nil
}

// bindInbox makes the inbox of a topic.
func (q queues) bindInbox(ctx context.Context, topic string) error {
	if err := checkTopic(topic); err != nil {
		return err
	}
	if !isInboxTopic(topic) {
		return fmt.Errorf("topic %s is not that of an inbox: it would begin with %s", topic, inboxTopics)
	}
	stream := inboxStream(q.config.Stream)
	_, err := q.lookup(ctx, stream, topic)
	if !errors.Is(err, transport.ErrNoQueue) {
		return err
	}
	if q.config.NoDeclare {
		return fmt.Errorf("%w: make the consumer %s of the stream %s with the filter subject %s and "+
			"explicit acks", err, consumerName(topic), stream, subject(stream, topic))
	}
	config := q.consumer(topic, []string{subject(stream, topic)})
	config.InactiveThreshold = inbox.Expires
	return q.create(ctx, stream, config)
}
