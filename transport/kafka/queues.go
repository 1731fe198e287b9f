package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

// queues asks and changes what the cluster has of queues.
type queues struct {
	config Config
	admin  *kadm.Client
}

// offsets are positions in the partitions of topics.
type offsets map[string]map[int32]int64

func (o offsets) set(topic string, partition int32, at int64) {
	if o[topic] == nil {
		o[topic] = map[int32]int64{}
	}
	o[topic][partition] = at
}

func (o offsets) at(topic string, partition int32) (at int64, found bool) {
	at, found = o[topic][partition]
	return at, found
}

func (o offsets) topics() []string { return slices.Sorted(maps.Keys(o)) }

// committed returns the offsets of a group, none where there is no group.
func (q queues) committed(ctx context.Context, group string) (kadm.OffsetResponses, error) {
	found, err := q.admin.FetchOffsets(ctx, group)
	if errors.Is(err, kerr.GroupIDNotFound) {
		return nil, nil
	}
	return found, explain(ctx, err)
}

// bound returns from where on the messages of topics are for a queue. It is empty where there is no
// queue.
func (q queues) bound(ctx context.Context, queue string) (offsets, error) {
	found, err := q.committed(ctx, q.config.boundGroup(queue))
	if err != nil {
		return nil, err
	}
	all := offsets{}
	for _, o := range found.Sorted() {
		switch {
		case errors.Is(o.Err, kerr.UnknownTopicOrPartition): // it was deleted
		case o.Err != nil:
			return nil, explain(ctx, o.Err)
		case o.At >= 0:
			all.set(o.Topic, o.Partition, o.At)
		}
	}
	return all, nil
}

// place is a topic of Kafka's, as this package makes it.
type place struct {
	name       string
	partitions int
	settings   map[string]string
	fromStart  bool // a new queue begins with what is there
}

// model is the place of what is broadcast to a topic.
func (q queues) model(topic string) place {
	p := place{name: q.config.modelTopic(topic), partitions: q.config.Partitions}
	p.settings = q.retention()
	if q.config.Compact {
		p.settings = map[string]string{"cleanup.policy": "compact"}
		p.fromStart = true
	}
	return p
}

func (q queues) retention() map[string]string {
	if q.config.Retention == 0 {
		return nil
	}
	return map[string]string{
		"retention.ms": strconv.FormatInt(q.config.Retention.Milliseconds(), 10),
	}
}

// direct is the place of what is for one queue alone.
func (q queues) direct(queue string) place {
	return place{
		name: q.config.queueTopic(queue), partitions: q.config.Partitions, settings: q.retention(),
	}
}

// dead is the place of dead letters. Each stays until another message of its key removes it.
func (q queues) dead(queue string) place {
	return place{
		name: q.config.queueTopic(queue), partitions: 1,
		settings: map[string]string{"cleanup.policy": "compact"},
	}
}

// inbox is the place of an inbox. What is older than its time to live may stay for as long again,
// and is passed over.
func (q queues) inbox(topic string) place {
	ttl := strconv.FormatInt(inbox.TTL.Milliseconds(), 10)
	return place{
		name: q.config.modelTopic(topic), partitions: 1,
		settings: map[string]string{"retention.ms": ttl, "segment.ms": ttl},
	}
}

// bind makes the topics of a queue that are missing, and notes from where on their messages are for
// the queue. Unless make is set it returns transport.ErrNoQueue where there is no queue.
//
// Several may do so at once, and whoever notes last counts. So the ends of topics are looked at
// before the notes: then nobody notes an end that is behind what was published after another one
// had returned.
func (q queues) bind(ctx context.Context, queue string, places []place, make bool) error {
	before, err := q.bound(ctx, queue)
	if err != nil {
		return err
	}
	if len(before) == 0 && !make {
		return transport.ErrNoQueue
	}
	var missing []place
	for _, p := range places {
		if len(before[p.name]) == 0 {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := q.create(ctx, missing); err != nil {
		return err
	}
	ends, err := q.starts(ctx, missing)
	if err != nil {
		return err
	}
	if before, err = q.bound(ctx, queue); err != nil {
		return err
	}
	for topic, partitions := range ends {
		for number := range partitions {
			if _, noted := before.at(topic, number); noted {
				delete(partitions, number)
			}
		}
	}
	return q.note(ctx, q.config.boundGroup(queue), ends, "")
}

// create makes the topics that are missing.
func (q queues) create(ctx context.Context, places []place) error {
	if q.config.NoDeclare {
		return nil
	}
	replicas := int16(-1) // as the brokers are configured
	if q.config.Replicas > 0 {
		replicas = int16(q.config.Replicas) //nolint:gosec // at most 100
	}
	kinds := map[string][]place{}
	for _, p := range places {
		kind := fmt.Sprint(p.partitions, p.settings)
		kinds[kind] = append(kinds[kind], p)
	}
	for _, kind := range slices.Sorted(maps.Keys(kinds)) {
		var names []string
		for _, p := range kinds[kind] {
			names = append(names, p.name)
		}
		settings := map[string]*string{}
		for name, value := range kinds[kind][0].settings {
			settings[name] = &value
		}
		slices.Sort(names)
		answers, err := q.admin.CreateTopics(ctx,
			int32(kinds[kind][0].partitions), replicas, settings, //nolint:gosec // at most 10,000
			slices.Compact(names)...)
		if err != nil {
			return explain(ctx, err)
		}
		for _, a := range answers.Sorted() {
			if a.Err != nil && !errors.Is(a.Err, kerr.TopicAlreadyExists) {
				return explain(ctx, fmt.Errorf("make the topic %s: %w: %s", a.Topic, a.Err,
					a.ErrMessage))
			}
		}
	}
	return nil
}

// believed is after how long a topic that is not there is not: clients remember for a moment what
// brokers said, and brokers hear of a new topic one by one.
const believed = time.Second

// starts returns where a queue begins to read topics, as soon as their partitions have leaders.
func (q queues) starts(ctx context.Context, places []place) (offsets, error) {
	var fromStart, fromEnd []string
	for _, p := range places {
		if p.fromStart {
			fromStart = append(fromStart, p.name)
		} else {
			fromEnd = append(fromEnd, p.name)
		}
	}
	all, began := offsets{}, time.Now()
	for {
		err := errors.Join(
			q.list(ctx, q.admin.ListStartOffsets, fromStart, all),
			q.list(ctx, q.admin.ListEndOffsets, fromEnd, all))
		switch {
		case err == nil:
			return all, nil
		case q.config.NoDeclare && errors.Is(err, kerr.UnknownTopicOrPartition) &&
			time.Since(began) > believed:
			return nil, fmt.Errorf("%w: make its topics (declare=false), or give it another broker "+
				"URL: %w", transport.ErrNoQueue, errors.New(err.Error()))
		case !errors.Is(err, transport.ErrUnavailable):
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, explain(ctx, err)
		case <-time.After(50 * time.Millisecond): // a topic that was just made has no leader yet
		}
	}
}

type lister func(ctx context.Context, topics ...string) (kadm.ListedOffsets, error)

func (q queues) list(ctx context.Context, list lister, topics []string, into offsets) error {
	if len(topics) == 0 {
		return nil
	}
	listed, err := list(ctx, topics...)
	if err != nil {
		return explain(ctx, err)
	}
	if err := listed.Error(); err != nil {
		return explain(ctx, err)
	}
	listed.Each(func(o kadm.ListedOffset) { into.set(o.Topic, o.Partition, o.Offset) })
	for _, topic := range topics {
		if len(listed[topic]) == 0 {
			return explain(ctx, kerr.UnknownTopicOrPartition)
		}
	}
	return nil
}

// note writes offsets of a group that has no members.
func (q queues) note(ctx context.Context, group string, at offsets, text string) error {
	all := kadm.Offsets{}
	for topic, partitions := range at {
		for number, offset := range partitions {
			all.Add(kadm.Offset{
				Topic: topic, Partition: number, At: offset, LeaderEpoch: -1, Metadata: text,
			})
		}
	}
	if len(all) == 0 {
		return nil
	}
	answers, err := q.admin.CommitOffsets(ctx, group, all)
	if err == nil {
		err = answers.Error()
	}
	return explain(ctx, err)
}
