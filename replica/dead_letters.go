package replica

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/transport"
)

// keepDead keeps dead letters. The ledger stays as it is, so that a newer revision of the key
// supersedes them. One that the database does not take goes back to the broker: there it is kept.
func (b *batch) keepDead(ctx context.Context, tx transaction, dead []failure) error {
	for _, f := range dead {
		keep := func(tx transaction) error {
			return tx.addDeadLetter(ctx, f.deadLetter(b.engine.config.Queue))
		}
		var err error
		switch {
		case b.engine.config.DeadLetters != nil && f.isPublishable():
			err = b.engine.publishDead(ctx, f)
		case b.careful:
			err = tx.savepoint(ctx, keep)
		default:
			err = keep(tx)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("keep a dead letter: %w; it was not applied because: %w", err, f.err)
		if !b.careful || classOf(err) == outage {
			return err
		}
		f.outcome, f.result = Returned, err
	}
	return nil
}

// isPublishable says that django-cqrs's commands can read the dead letter. They die of one that
// they cannot, and never come to those behind it. Into a large one nobody has looked.
func (f failure) isPublishable() bool {
	if f.message != nil || reasonOf(f.err) != TooLarge {
		return f.message != nil
	}
	_, _, err := envelope.Again(f.body, time.Time{})
	return err == nil
}

// publishDead sends a dead letter the way django-cqrs does, so that its tools list and retry it:
// the body with the number of retries, on the topic of the model in the queue's dead letter queue.
func (e *engine) publishDead(ctx context.Context, f failure) error {
	body, headers := f.body, maps.Clone(f.headers)
	// somewhere that the queue is bound to, where the message does not say
	model := e.order[0].model
	if m := f.message; m != nil {
		if f.binding != nil {
			model = m.Model
		}
		m := *m
		m.Retries = f.past.attempts
		if encoded, err := m.Encode(); err == nil {
			body = encoded
		}
	} else if seen := envelope.Peek(f.body, f.headers); e.models[seen.Model] != nil {
		model = seen.Model
	}
	out := message.NewMessage(f.uuid, body)
	out.Metadata = message.Metadata{transport.DeadLetterReasonKey: f.err.Error()}
	maps.Copy(out.Metadata, headers)
	if e.config.DeadLetterTTL > 0 {
		out.Metadata.Set(transport.ExpirationKey,
			strconv.FormatInt(e.config.DeadLetterTTL.Milliseconds(), 10))
	}
	out.SetContext(ctx)
	if err := e.config.DeadLetters.Publish(transport.DirectTopic("dead_letter_"+e.config.Queue,
		model), out); err != nil {
		return &outageError{fmt.Errorf("publish a dead letter: %w", err)}
	}
	return nil
}

// deadLetter is the message as a dead letter.
func (f failure) deadLetter(queue string) applied.DeadLetter {
	letter := applied.DeadLetter{
		Queue: queue, Body: f.body, Metadata: maps.Clone(f.headers), Error: f.err.Error(),
	}
	if m := f.message; m != nil {
		letter.Model, letter.Key, letter.Revision = m.Model, m.Key, &m.Revision
	} else { // what can be read of it, and what whoever sent it says
		seen := envelope.Peek(f.body, f.headers)
		letter.Model, letter.Key, letter.Revision = seen.Model, seen.Key, seen.Revision
	}
	return letter
}
