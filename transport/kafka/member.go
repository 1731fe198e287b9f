package kafka

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cqrsync/cqrsync/transport/internal/bounded"
	"github.com/cqrsync/cqrsync/transport/internal/inbox"
)

const (
	// heartbeat is how often a member says that it lives, and hears that others came or went.
	heartbeat = time.Second
	// handover is how long a member keeps a partition that another one is to have, for what it has
	// in hands.
	handover = 5 * time.Second
	// mostFetched bounds what one answer of the brokers brings, in bytes.
	mostFetched = 16 << 20
)

// member returns a client that is a member of the queue's group.
func (c *consumer) member(topics []string) (*kgo.Client, error) {
	config := c.subscriber.config
	return config.client("cqrsync-subscriber", nil,
		kgo.ConsumerGroup(config.progressGroup(c.queue)),
		kgo.ConsumeTopics(topics...),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.Balancers(kgo.CooperativeStickyBalancer()),
		kgo.SessionTimeout(config.Lease),
		kgo.HeartbeatInterval(min(heartbeat, config.Lease/3)),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxBytes(mostFetched),
		kgo.AdjustFetchOffsetsFn(c.assigned),
		kgo.OnPartitionsRevoked(c.revoked),
		kgo.OnPartitionsLost(c.lost),
	)
}

// assigned says from where on partitions are read that the member got.
func (c *consumer) assigned(
	ctx context.Context, got map[string]map[int32]kgo.Offset,
) (map[string]map[int32]kgo.Offset, error) {
	s := c.subscriber
	q := queues{s.config, s.admin}
	bound, err := q.bound(ctx, c.queue)
	if err != nil {
		return nil, err
	}
	committed, err := q.committed(ctx, s.config.progressGroup(c.queue))
	if err != nil {
		return nil, err
	}
	topics := make([]string, 0, len(got))
	for topic := range got {
		topics = append(topics, topic)
	}
	begin, err := s.admin.ListStartOffsets(ctx, topics...)
	if err != nil {
		return nil, err
	}
	var end kadm.ListedOffsets
	if isInboxTopic(c.queue) {
		if end, err = s.admin.ListEndOffsets(ctx, topics...); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, partitions := range got {
		for number := range partitions {
			from, _ := bound.at(topic, number)
			p := progressOf(committed, topic, number, from)
			if e, found := end.Lookup(topic, number); found {
				p = p.notBefore(e.Offset - inbox.Most)
			}
			if b, found := begin.Lookup(topic, number); found && b.Offset > p.offset {
				c.missed(topic, number, b.Offset-p.offset)
				p = p.notBefore(b.Offset)
			}
			c.put(newLane(topic, number, p))
			partitions[number] = kgo.NewOffset().At(p.offset)
		}
	}
	return got, nil
}

// notBefore passes over everything before an offset.
func (p progress) notBefore(offset int64) progress {
	if p.offset >= offset {
		return p
	}
	return progress{offset: offset}
}

// missed tells of messages that the topic did not keep for as long as nobody read them.
func (c *consumer) missed(topic string, partition int32, n int64) {
	if isInboxTopic(c.queue) || c.subscriber.config.Compact {
		return
	}
	c.subscriber.config.Logger.Warn("the topic dropped messages that the queue had not got: a "+
		"comparison with the master repairs that; let the topic keep them for longer (retention.ms)",
		"queue", c.queue, "topic", topic, "partition", partition, "messages", n)
}

func (c *consumer) put(l *lane) {
	c.remove(l.topic, l.partition)
	if c.lanes[l.topic] == nil {
		c.lanes[l.topic] = map[int32]*lane{}
	}
	c.lanes[l.topic][l.partition] = l
}

func (c *consumer) remove(topic string, partition int32) {
	if l := c.lanes[topic][partition]; l != nil {
		c.waiting -= l.waiting
		delete(c.lanes[topic], partition)
		wake(c.roomy)
	}
}

// revoked gives partitions up, when what was in hands of them is settled, or has had its time. What
// is not by then comes again to who has them next.
func (c *consumer) revoked(ctx context.Context, _ *kgo.Client, given map[string][]int32) {
	timer := time.NewTimer(handover)
	defer timer.Stop()
	for waiting := true; waiting && c.holds(given); {
		select {
		case <-c.released:
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	if err := c.commit(ctx); err != nil {
		c.subscriber.config.Logger.WarnContext(ctx, "partitions go to another consumer, and what "+
			"was acknowledged could not be noted: it comes again", "queue", c.queue, "error", err)
	}
	c.lost(ctx, nil, given)
}

// holds stops handing out of partitions, and says whether some of them is in hands.
func (c *consumer) holds(given map[string][]int32) (held bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, partitions := range given {
		for _, number := range partitions {
			if l := c.lanes[topic][number]; l != nil {
				l.leaving = true
				held = held || l.held > 0
			}
		}
	}
	return held && !c.leaving
}

func (c *consumer) lost(_ context.Context, _ *kgo.Client, given map[string][]int32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for topic, partitions := range given {
		for _, number := range partitions {
			c.remove(topic, number)
		}
	}
}

// note commits what is settled as soon as it can, and from time to time what is in hands.
func (c *consumer) note(ctx context.Context) {
	ticker := time.NewTicker(noteAfter)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.settled:
		case <-ticker.C:
		}
		_ = c.commit(ctx) // what failed is tried again with the next one
	}
}

// commit notes how far the consumer is, one call at a time, so that nothing older comes later.
func (c *consumer) commit(ctx context.Context) error {
	c.committing.Lock()
	defer c.committing.Unlock()
	at, text, changed := c.unnoted()
	if len(at) == 0 {
		return nil
	}
	ctx, cancel := bounded.Timeout(ctx, c.subscriber.config.ConnectTimeout, nil)
	defer cancel()
	ctx = kgo.PreCommitFnContext(ctx, func(r *kmsg.OffsetCommitRequest) error {
		for i := range r.Topics {
			for j := range r.Topics[i].Partitions {
				p := &r.Topics[i].Partitions[j]
				beside := text[r.Topics[i].Topic][p.Partition]
				p.Metadata = &beside
			}
		}
		return nil
	})
	var errs []error
	c.client.CommitOffsetsSync(ctx, at, func(
		_ *kgo.Client, _ *kmsg.OffsetCommitRequest, answer *kmsg.OffsetCommitResponse, err error,
	) {
		errs = append(errs, err)
		if answer == nil {
			return
		}
		for _, topic := range answer.Topics {
			for _, p := range topic.Partitions {
				errs = append(errs, kerr.ErrorForCode(p.ErrorCode))
			}
		}
	})
	err := errors.Join(errs...)
	if err != nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, l := range changed {
			l.changed = true
		}
	}
	return err
}

// unnoted returns what has changed since it was committed.
func (c *consumer) unnoted() (
	at map[string]map[int32]kgo.EpochOffset, text map[string]map[int32]string, changed []*lane,
) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at, text = map[string]map[int32]kgo.EpochOffset{}, map[string]map[int32]string{}
	for topic, partitions := range c.lanes {
		for number, l := range partitions {
			if !l.changed {
				continue
			}
			if at[topic] == nil {
				at[topic], text[topic] = map[int32]kgo.EpochOffset{}, map[int32]string{}
			}
			p := l.progress()
			at[topic][number] = kgo.EpochOffset{Epoch: -1, Offset: p.offset}
			text[topic][number] = p.text()
			l.changed = false
			changed = append(changed, l)
		}
	}
	return at, text, changed
}

// watch has the member read topics that its queue was bound to, and binds it to its own again where
// somebody deleted that.
func (c *consumer) watch(ctx context.Context) {
	look, keep := time.NewTicker(checkBindings), time.NewTicker(keepBindings)
	defer look.Stop()
	defer keep.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			err = c.subscriber.within(ctx, c.follow)
		case <-keep.C:
			err = c.subscriber.within(ctx, func(ctx context.Context, q queues) error {
				return c.subscriber.bind(ctx, q, c.topics)
			})
		}
		if ctx.Err() == nil {
			c.looked(err)
		}
	}
}

// looked notes what came of looking at the bindings: the client says of no trouble as long as it
// tries again. Where messages arrive there is none that matters.
func (c *consumer) looked(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.arrived {
		c.arrived = false
		return
	}
	c.trouble, c.arrived = err, false
	wake(c.ready)
}

func (c *consumer) follow(ctx context.Context, q queues) error {
	bound, err := q.bound(ctx, c.queue)
	if err != nil {
		return err
	}
	var further []string
	c.mu.Lock()
	for topic := range bound {
		if !c.bound[topic] {
			c.bound[topic] = true
			further = append(further, topic)
		}
	}
	c.mu.Unlock()
	c.client.AddConsumeTopics(further...)
	return nil
}
