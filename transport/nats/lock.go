package nats

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/internal/bounded"
)

const (
	// lockLease is after how long without a change a lock is taken for that of a process that died.
	// Its holder makes two calls, and gives up long before.
	lockLease = 30 * time.Second
	lockPause = 20 * time.Millisecond
	unlocked  = "unlocked"
)

// locked calls do while nobody else changes the bindings of a queue: an update replaces all of
// them, and would undo another's.
func (q queues) locked(ctx context.Context, queue string, do func(context.Context) error) error {
	release, err := q.lock(ctx, queue)
	if err != nil {
		return fmt.Errorf("lock its bindings: %w", err)
	}
	defer release()
	ctx, cancel := bounded.Timeout(ctx, lockLease/3, nil) // before anybody takes the lock
	defer cancel()
	return do(ctx)
}

// lock waits until nobody else changes the bindings of a queue. A lock is a note with a number that
// grows: whoever replaces exactly the note that he saw has it. That its holder died is told by the
// note alone, which did not change for a while of the reader's own clock.
func (q queues) lock(ctx context.Context, queue string) (release func(), err error) {
	stream := notesStream(q.config.Stream)
	note := subject(stream, "lock."+consumerName(queue))
	holder := q.config.Name + " " + time.Now().UTC().Format(time.RFC3339)
	var seen uint64
	var since time.Time
	for {
		last, text, found, err := q.note(ctx, stream, note)
		if err != nil {
			return nil, err
		}
		held := found && string(text) != unlocked
		if last != seen || since.IsZero() {
			seen, since = last, time.Now()
		}
		if !held || time.Since(since) > lockLease {
			ack, err := q.js.Publish(ctx, note, []byte(holder),
				jetstream.WithExpectLastSequencePerSubject(last), jetstream.WithRetryAttempts(0))
			if err == nil {
				return func() { q.unlock(ctx, note, ack.Sequence) }, nil
			}
			if !isCode(err, jetstream.JSErrCodeStreamWrongLastSequence) {
				return nil, explain(ctx, err)
			}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", transport.ErrUnavailable, context.Cause(ctx))
		case <-time.After(lockPause):
		}
	}
}

// note returns the last note of a subject, and its number.
func (q queues) note(
	ctx context.Context, stream, note string,
) (number uint64, text []byte, found bool, err error) {
	msg, err := ask(ctx, func(ctx context.Context) (*jetstream.RawStreamMsg, error) {
		s, err := q.js.Stream(ctx, stream)
		if err != nil {
			return nil, err
		}
		return s.GetLastMsgForSubject(ctx, note)
	})
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return 0, nil, false, nil
	}
	if err != nil {
		return 0, nil, false, explain(ctx, err)
	}
	return msg.Sequence, msg.Data, true, nil
}

// unlock replaces the own note, unless another one took it for a dead one's.
func (q queues) unlock(ctx context.Context, note string, own uint64) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), q.config.ConnectTimeout)
	defer cancel()
	_, _ = q.js.Publish(ctx, note, []byte(unlocked), // else it lasts for its lease
		jetstream.WithExpectLastSequencePerSubject(own), jetstream.WithRetryAttempts(0))
}
