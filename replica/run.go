package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"

	"github.com/cqrsync/cqrsync/internal/store"
	"github.com/cqrsync/cqrsync/transport"
)

// Run subscribes to every registered model and applies what arrives, until ctx ends; then it finishes the messages in
// flight and returns nil. It fails at once on registration errors and where a table is missing. It does not need the
// broker to start: while the subscriber reports transport.ErrUnavailable, Run asks again. Nor does it stop when the
// database fails later: it holds what it has, and goes on when the database does.
//
// Processes of one queue may run at the same time, and so may several Runs of one Replica.
func (r *Replica) Run(ctx context.Context, subscriber message.Subscriber) error {
	if err := r.start(); err != nil {
		return err
	}
	if err := r.checkTables(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	subscriptions := r.subscriptions(subscriber)
	failed := make(chan error, len(subscriptions)+1)
	var missing atomic.Int64
	missing.Store(int64(len(subscriptions)))
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Maintain(ctx); err != nil {
			failed <- err
			stop()
		}
	})
	for _, s := range subscriptions {
		s.subscribed = sync.OnceFunc(func() {
			if missing.Add(-1) == 0 {
				r.nowRunning.Do(func() { close(r.running) })
			}
		})
		running.Go(func() {
			if err := s.follow(ctx); err != nil {
				failed <- err
				stop()
			}
		})
	}
	running.Wait()
	close(failed)
	return <-failed // the first, or nil
}

// Running is closed once every subscription exists: from then on, no message is missed for want of a queue.
func (r *Replica) Running() <-chan struct{} { return r.running }

// checkTables fails where every message would: better at the start than in the dead letters.
func (r *Replica) checkTables(ctx context.Context) error {
	if r.store == nil {
		return nil
	}
	if err := r.store.RequireMigrated(ctx, store.Replica); err != nil {
		return fmt.Errorf("check the replica's tables: %w (or call Migrate)", err)
	}
	var errs []error
	for _, b := range r.order {
		if b.mirror != nil {
			errs = append(errs, b.mirror.check(ctx, r.db))
		}
	}
	return errors.Join(errs...)
}

// subscription follows one topic. Any model may arrive on any topic; what counts is the message.
type subscription struct {
	*Replica
	topic      string
	subscribe  func(context.Context) (<-chan *message.Message, error)
	subscribed func()
}

// subscriptions are one per model where the subscriber hands out a window of messages: the window is shared out among
// them. A stock subscriber waits for every ack; it gets as many as there are workers.
func (r *Replica) subscriptions(subscriber message.Subscriber) (all []*subscription) {
	for _, b := range r.order {
		if windowed, ok := subscriber.(transport.WindowSubscriber); ok {
			all = append(all, &subscription{Replica: r, topic: b.model,
				subscribe: func(ctx context.Context) (<-chan *message.Message, error) {
					return windowed.SubscribeWindow(ctx, b.model, r.window())
				}})
			continue
		}
		for range r.config.Workers {
			all = append(all, &subscription{Replica: r, topic: b.model,
				subscribe: func(ctx context.Context) (<-chan *message.Message, error) {
					return subscriber.Subscribe(ctx, b.model)
				}})
		}
	}
	return all
}

// window is one subscription's share of Config.Window.
func (r *Replica) window() int { return max(r.config.Window/len(r.order), 1) }

// follow consumes until ctx ends, and subscribes again where the subscription ends before.
func (s *subscription) follow(ctx context.Context) error {
	pause := s.subscribePause()
	for ctx.Err() == nil {
		some, err := s.consume(ctx)
		if err != nil && !errors.Is(err, transport.ErrUnavailable) && ctx.Err() == nil {
			return fmt.Errorf("subscribe to %s: %w", s.topic, err)
		}
		if some {
			pause.Reset()
		}
		if err == nil {
			err = errors.New("the subscription ended")
		}
		s.wait(ctx, pause.NextBackOff(), err)
	}
	return nil
}

func (r *Replica) subscribePause() *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     100 * time.Millisecond,
		RandomizationFactor: backoff.DefaultRandomizationFactor,
		Multiplier:          2,
		MaxInterval:         5 * time.Second,
	}
}

// wait logs why a topic has no subscription and returns after d, or at once when ctx has ended.
func (s *subscription) wait(ctx context.Context, d time.Duration, reason error) {
	if ctx.Err() != nil {
		return
	}
	s.log.Warn("not subscribed; trying again", "topic", s.topic, "in", d, "error", reason)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// consume subscribes and hands over messages until the channel closes or ctx ends, and says whether there were any. The
// subscription outlives ctx until the messages in flight are acknowledged: an ack that comes after it is worth nothing.
func (s *subscription) consume(ctx context.Context) (some bool, err error) {
	subscription, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	connecting := context.AfterFunc(ctx, end)
	messages, err := s.subscribe(subscription)
	connecting()
	if err != nil {
		return false, err
	}
	s.subscribed()
	var inFlight sync.WaitGroup
	for open := true; open; {
		var delivery *message.Message
		select {
		case <-ctx.Done():
			open = false
		case delivery, open = <-messages:
		}
		if delivery == nil {
			continue
		}
		some = true
		inFlight.Add(1)
		s.submit(s.delivered(ctx, delivery, inFlight.Done))
	}
	inFlight.Wait()
	end()
	for delivery := range messages { // on its way when the reading stopped
		delivery.Nack()
	}
	return some, nil
}

// delivered makes an item of a delivery, which ends with its ack or nack.
func (s *subscription) delivered(ctx context.Context, delivery *message.Message, done func()) *item {
	it := s.read(withValues(ctx, delivery.Context()), delivery.UUID, delivery.Payload, delivery.Metadata)
	it.done = func(it *item) {
		defer done()
		if it.outcome == Returned {
			s.log.Warn("message returned to the broker", it.attrs("error", it.result)...)
			delivery.Nack()
			return
		}
		delivery.Ack()
	}
	return it
}

// valued is a context with the values of another one.
type valued struct {
	context.Context
	values context.Context
}

func (v valued) Value(key any) any {
	if value := v.values.Value(key); value != nil {
		return value
	}
	return v.Context.Value(key)
}

// withValues is ctx with the values of another context, such as a trace, and without its end.
func withValues(ctx, values context.Context) context.Context { return valued{ctx, values} }
