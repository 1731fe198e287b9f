package relay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/transport"
)

// followingBatches of followers may be in flight at once, so that a key with many messages waits
// for the broker's answer only, not for the end of a large batch.
const followingBatches = 1

// firstBatches is how many batches of messages just claimed may be in flight at once. Two: while
// the broker confirms the end of one, the next is on its way, on another connection where the
// transport has several. Where other relays do the same, one: more than the broker can write at a
// time only costs it.
func (r *Relay) firstBatches() int {
	if r.lease.alone {
		return 2
	}
	return 1
}

// publishReady hands batches to the publisher. While the broker is away it is one at a time, at the
// pace of the outage.
func (r *Relay) publishReady(now time.Time) {
	if r.broker.on() && (r.broker.retry.After(now) || r.tasks.first+r.tasks.following > 0) {
		return
	}
	for r.mayPublish(r.flow.followers, r.tasks.following, followingBatches) {
		r.publish(take(&r.flow.followers, r.cfg.BatchSize), &r.tasks.following)
		if r.broker.on() {
			return
		}
	}
	for r.mayPublish(r.flow.ready, r.tasks.first, r.firstBatches()) {
		r.publish(take(&r.flow.ready, r.cfg.BatchSize), &r.tasks.first)
		if r.broker.on() {
			return
		}
	}
}

// smallBatches of few messages may be in flight at once, so that a message need not wait for the
// answer to those before it: for the broker that is its longest way.
const smallBatches = 8

// mayPublish says whether some of what is ready may go while that many batches like it are in
// flight.
func (r *Relay) mayPublish(ready []outgoing, inFlight, limit int) bool {
	few := r.tasks.messages+len(ready) <= r.cfg.BatchSize/10
	return len(ready) > 0 && (inFlight < limit || few && inFlight < smallBatches)
}

func (r *Relay) publish(batch []outgoing, inFlight *int) {
	*inFlight++
	r.tasks.messages += len(batch)
	lanes, tenure, incarnation := r.lease.lanes, r.lease.tenure, r.incarnation
	r.tasks.start(func() func() {
		errs := r.deliver(tenure, incarnation, batch)
		return func() {
			*inFlight--
			r.tasks.messages -= len(batch)
			r.settle(batch, errs, lanes, tenure == r.lease.tenure)
		}
	})
}

// deliver encodes a batch and hands it to the publisher. It returns one error per message.
func (r *Relay) deliver(ctx context.Context, incarnation string, batch []outgoing) []error {
	errs := make([]error, len(batch))
	messages := make([]transport.Outgoing, 0, len(batch))
	sent := make([]int, 0, len(batch))
	encoder := encoder{incarnation: incarnation}
	for i := range batch {
		m, err := encoder.encode(batch[i].Claimed)
		if err != nil {
			errs[i] = err
			continue
		}
		messages, sent = append(messages, m), append(sent, i)
	}
	if len(messages) == 0 {
		return errs
	}
	r.stats.batches.Add(1)
	answers := r.publisher.PublishBatch(ctx, messages)
	over := transport.Ended(ctx)
	for n, i := range sent {
		switch {
		case n >= len(answers):
			errs[i] = fmt.Errorf("%w: the publisher said nothing about this message",
				transport.ErrUnavailable)
		case answers[n] != nil && over != nil: // whatever it says, it is not the message's fault
			errs[i] = fmt.Errorf("%w: %w", transport.ErrUnavailable, over)
		default:
			errs[i] = answers[n]
		}
	}
	return errs
}

// settle notes what became of a batch. current says that the lanes were not lost meanwhile: else it
// is not known any more whether the database still has what was sent, see lose.
func (r *Relay) settle(batch []outgoing, errs []error, lanes []queue.Lane, current bool) {
	var away error
	var again []outgoing
	answered, now := false, time.Now()
	if current {
		r.open.lanes = lanes
	}
	first := len(r.open.Failed)
	firstDead := len(r.open.Dead)
	for i := range batch {
		m := &batch[i]
		switch err := errs[i]; {
		case errors.Is(err, transport.ErrUnavailable):
			away = err
			r.unsure = time.Now().Add(r.cfg.LeaseTTL)
			again = append(again, *m)
		case err == nil:
			answered = true
			r.absence.pause = 0
			r.stats.confirmed(m.Claimed, now)
			if !current {
				continue
			}
			m.Data, m.Previous, m.Meta = nil, nil, nil // it is only to be removed
			r.open.Sent = append(r.open.Sent, m.Claimed)
			r.flow.confirmed(m)
		case current:
			answered = true
			r.refuse(m.Claimed, err)
			r.flow.failed(m)
		}
	}
	r.noteTopics(batch, errs)
	r.report(r.open.Failed[first:], r.open.Dead[firstDead:])
	if current {
		r.flow.ready = append(again, r.flow.ready...)
		// it was read, so there may be more to read
		if slices.ContainsFunc(batch, func(m outgoing) bool { return !m.Follows }) {
			r.reader.soon()
		}
	}
	switch {
	case away != nil && current:
		r.broker.begin(away)
	case answered:
		r.broker.end()
	}
}

// noteTopics ends the trouble of topics to which the broker took everything in a batch.
func (r *Relay) noteTopics(batch []outgoing, errs []error) {
	if len(r.topics.troubled) == 0 {
		return
	}
	taken := map[string]bool{}
	for i, err := range errs {
		if topic := topicOf(batch[i].Claimed); err != nil {
			taken[topic] = false
		} else if _, known := taken[topic]; !known {
			taken[topic] = true
		}
	}
	for topic, all := range taken {
		if all {
			r.topics.taken(topic)
		}
	}
}

// refuse notes a message that failed, and not because the broker is away: its key waits, or, where
// it is the message's own fault, it may be given up.
func (r *Relay) refuse(m *queue.Claimed, err error) {
	f := queue.Failure{Claimed: m, Error: err.Error(), Wait: r.cfg.retryWait(m.Attempts, r.jitter)}
	if transport.AtDestination(err) {
		f.Spared, f.Wait = true, r.topics.refused(topicOf(m), m, err)
	}
	if f.Spared || m.Attempts+1 < r.cfg.MaxAttempts {
		r.open.Failed = append(r.open.Failed, f)
		r.stats.retries.Add(1)
	} else {
		r.open.Dead = append(r.open.Dead, f)
		r.stats.deadLetters.Add(1)
	}
}

// report logs one line for all messages that failed for a reason of their own, because what fails
// often fails for many at once.
func (r *Relay) report(failed, dead []queue.Failure) {
	failed = slices.DeleteFunc(slices.Clone(failed), func(f queue.Failure) bool { return f.Spared })
	if len(failed) > 0 {
		first := failed[0]
		r.log.Warn("messages refused, their keys wait", "messages", len(failed), "model",
			first.Model, "key", first.Key,
			"revision", first.Revision, "error", first.Error)
	}
	if len(dead) > 0 {
		first := dead[0]
		r.log.Error("messages given up, see outbox_dead_letters", "messages", len(dead), "model",
			first.Model, "key", first.Key,
			"revision", first.Revision, "error", first.Error)
	}
}
