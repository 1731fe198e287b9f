package replica

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
)

// consumer applies deliveries to the models of a replica. It exists once the time of registration is over.
type consumer struct {
	*Replica
	models map[string]*binding
}

// consume settles one delivery: nil means it is done with (applied, without effect, or parked) and can be
// acknowledged; an error means that the broker must deliver it again.
func (c consumer) consume(ctx context.Context, delivery *message.Message) error {
	var result outcome
	m, err := envelope.Decode(delivery.Payload, delivery.Metadata)
	if err == nil {
		result, err = c.process(ctx, m)
	}
	if err != nil && patienceWith(err) != endless {
		result, err = parked, c.park(ctx, delivery, m, err)
	}
	if err != nil {
		result = returned
	}
	c.counts[result].Add(1)
	return err
}

// process applies the message, again and again while there is hope.
func (c consumer) process(ctx context.Context, m *envelope.Message) (result outcome, err error) {
	if m.Queue != "" && m.Queue != c.config.Queue {
		return ignored, nil
	}
	model, ok := c.models[m.Model]
	switch {
	case !ok:
		err = fmt.Errorf("model %q is not registered: call replica.Register or replica.Handle", m.Model)
	case m.Key == "" || strings.IndexByte(m.Key, 0) >= 0:
		err = fmt.Errorf("key %q: a ledger row needs text without NUL", m.Key)
	case isExpired(m):
		err = fmt.Errorf("expired at %s", envelope.FormatTime(m.Expires))
	}
	if err != nil {
		return 0, Permanent(err)
	}
	err = c.retry(ctx, func() (err error) {
		result, err = c.apply(ctx, model, m)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("apply %s of model %q key %q revision %d: %w", m.Signal, m.Model, m.Key, m.Revision, err)
	}
	return result, nil
}

// isExpired says that the master no longer vouches for the state. A delete has none and is always true.
func isExpired(m *envelope.Message) bool {
	return m.Signal != envelope.Delete && !m.Expires.IsZero() && m.Expires.Before(time.Now())
}

// apply is one try: gate, row and ledger in one transaction. That is the whole of P6.
func (c consumer) apply(ctx context.Context, model *binding, m *envelope.Message) (result outcome, err error) {
	ctx, cancel := c.uncut(ctx)
	defer cancel()
	err = c.db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		key := store.Key{Model: m.Model, Key: m.Key}
		ledger, err := c.store.LockApplied(ctx, tx, []store.Key{key})
		if err != nil {
			return err
		}
		if result = gate(ledger[key], m); result != applied && result != gap {
			return nil
		}
		if err := guarded(ctx, tx, model, m); err != nil {
			return err
		}
		// After the model's own statements, so that PostgreSQL refuses it when the handler swallowed an SQL error.
		return c.store.SettleApplied(ctx, tx, []store.Applied{settled(ledger[key], m)})
	})
	return result, err
}

// guarded turns a panic of the model's code into an error.
func guarded(ctx context.Context, tx bun.Tx, model *binding, m *envelope.Message) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return model.apply(ctx, tx, m)
}

// park keeps a delivery that cannot be applied, in a transaction of its own. The ledger stays as it is, so that a
// newer revision of the key supersedes the parked one. m is nil where the delivery could not be read.
func (c consumer) park(ctx context.Context, delivery *message.Message, m *envelope.Message, reason error) error {
	letter := store.ReplicaDeadLetter{
		Queue:    c.config.Queue,
		Body:     delivery.Payload,
		Metadata: delivery.Metadata,
		Error:    reason.Error(),
	}
	if m != nil {
		letter.Model, letter.Key, letter.Revision = m.Model, m.Key, &m.Revision
	}
	err := c.retry(ctx, func() error {
		ctx, cancel := c.uncut(ctx)
		defer cancel()
		return c.store.AddReplicaDeadLetter(ctx, c.db, letter)
	})
	if err != nil {
		return fmt.Errorf("park a message: %w; it was not applied because: %w", err, reason)
	}
	c.log.Error("message parked in replica_dead_letters",
		"model", letter.Model, "key", letter.Key, "uuid", delivery.UUID, "error", reason)
	return nil
}

// retry tries op up to Config.Tries times, until it succeeds, no retry can cure its error, or ctx ends.
func (c consumer) retry(ctx context.Context, op func() error) error {
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := op()
		if patienceWith(err) == none {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithBackOff(c.backOff()), backoff.WithMaxTries(uint(c.config.Tries)), backoff.WithMaxElapsedTime(0))
	return err
}

// backOff doubles the pause each time, spread by half to keep many consumers from coming back at once.
func (r *Replica) backOff() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     r.config.RetryMin,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         r.config.RetryMax,
	}
}

// uncut lets a transaction end when the consumer is stopped: cut off, it would be done again from the start.
func (r *Replica) uncut(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), r.config.HandlerTimeout)
}
