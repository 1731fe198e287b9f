package relay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/transport"
)

// results is what became of published messages, and the lanes, with their epochs, under which they were published.
type results struct {
	store.Outcome
	lanes []store.Lane
}

// waveTime bounds how long the further messages of busy keys hold up the next claim, and with it all other keys.
const waveTime = 50 * time.Millisecond

// publish sends claimed messages in waves: the oldest message of every key, then the second of those whose first was
// confirmed, and so on. So a key never has two messages in flight, and when one fails nothing has overtaken it (P4).
// The price is that one key alone moves at one message per round trip to the broker.
//
// It returns what became of the messages, whether some were left for a claim that should follow at once, and, if the
// broker is away, why. A message that is in none of the results is as it was.
func (r *Relay) publish(ctx, work context.Context, claimed []store.Claimed) (done results, left bool, away error) {
	done.lanes = r.lease.lanes
	queues := byKey(claimed)
	start := time.Now()
	for len(queues) > 0 && away == nil && ctx.Err() == nil {
		if time.Since(start) > waveTime || !r.lease.valid() {
			return done, true, nil
		}
		queues, away = r.send(work, queues, &done)
	}
	return done, false, away
}

// byKey groups messages by key, in the order in which the keys first appear.
func byKey(claimed []store.Claimed) [][]store.Claimed {
	queues := make([][]store.Claimed, 0, len(claimed))
	index := make(map[store.Key]int, len(claimed))
	for i, m := range claimed {
		key := store.Key{Model: m.Model, Key: m.Key}
		at, known := index[key]
		if !known {
			index[key] = len(queues)
			queues = append(queues, claimed[i:i+1:i+1]) // most keys have one message: no allocation
			continue
		}
		m.Attempts = 0 // those were the attempts of the oldest one
		queues[at] = append(queues[at], m)
	}
	return queues
}

// send publishes the first message of every queue and adds what became of it to done. It returns what is left of the
// queues whose first message was confirmed.
func (r *Relay) send(
	work context.Context, queues [][]store.Claimed, done *results,
) (left [][]store.Claimed, away error) {
	batch := make([]transport.Outgoing, 0, len(queues))
	sent := make([][]store.Claimed, 0, len(queues))
	for _, queue := range queues {
		out, err := encode(queue[0])
		if err != nil {
			r.refuse(done, queue[0], err)
			continue
		}
		batch, sent = append(batch, out), append(sent, queue)
	}
	if len(batch) == 0 {
		return nil, nil
	}
	for i, err := range r.deliver(work, batch) {
		switch queue := sent[i]; {
		case errors.Is(err, transport.ErrUnavailable):
			away = err
		case err != nil:
			r.refuse(done, queue[0], err)
		default:
			done.Sent = append(done.Sent, queue[0])
			if len(queue) > 1 {
				left = append(left, queue[1:])
			}
		}
	}
	if away == nil {
		r.broker.end()
	}
	return left, away
}

// refuse notes a message that failed for a reason of its own: its key waits, or it is given up.
func (r *Relay) refuse(done *results, m store.Claimed, err error) {
	f := store.Failure{Claimed: m, Error: err.Error(), Wait: r.cfg.retryWait(m.Attempts)}
	if m.Attempts+1 < r.cfg.MaxAttempts {
		done.Failed = append(done.Failed, f)
	} else {
		done.Dead = append(done.Dead, f)
	}
}

// deliver hands a batch to the publisher and keeps the lease while it waits, however long the broker takes. When the
// lease ends all the same, the publisher is told to give up: from then on another relay may publish from these lanes.
func (r *Relay) deliver(work context.Context, batch []transport.Outgoing) []error {
	ctx, cancel := context.WithCancelCause(work)
	defer cancel(nil)
	answer := make(chan []error, 1)
	go func() { answer <- r.publisher.PublishBatch(ctx, batch) }()

	r.stats.batches.Add(1)
	errs := r.await(ctx, cancel, answer)
	for i, err := range errs {
		if err != nil && ctx.Err() != nil { // whatever it says, it is not the message's fault
			errs[i] = fmt.Errorf("%w: %w", transport.ErrUnavailable, context.Cause(ctx))
		}
	}
	for len(errs) < len(batch) {
		errs = append(errs, fmt.Errorf("%w: the publisher said nothing about this message", transport.ErrUnavailable))
	}
	return errs[:len(batch)]
}

var errLeaseOver = errors.New("the lease on the lanes ended before the broker had answered")

func (r *Relay) await(ctx context.Context, cancel context.CancelCauseFunc, answer <-chan []error) []error {
	for r.lease.valid() {
		next := r.lease.beat
		if r.lease.until.Before(next) {
			next = r.lease.until
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case errs := <-answer:
			timer.Stop()
			return errs
		case <-timer.C:
			r.renew(ctx)
		}
	}
	cancel(errLeaseOver)
	return <-answer
}

// report counts and logs what became of messages: one line for all that failed, because what fails often fails for
// many at once.
func (r *Relay) report(done results) {
	r.stats.published.Add(int64(len(done.Sent)))
	r.stats.retries.Add(int64(len(done.Failed)))
	r.stats.deadLetters.Add(int64(len(done.Dead)))
	if n := len(done.Failed); n > 0 {
		first := done.Failed[0]
		r.log.Warn("messages refused, their keys wait", "messages", n, "model", first.Model, "key", first.Key,
			"revision", first.Revision, "error", first.Error)
	}
	if n := len(done.Dead); n > 0 {
		first := done.Dead[0]
		r.log.Error("messages given up, see outbox_dead_letters", "messages", n, "model", first.Model, "key", first.Key,
			"revision", first.Revision, "error", first.Error)
	}
}
