package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/transport"
)

// Run subscribes to every registered model and applies what arrives, until ctx ends; then it
// finishes the messages in flight and returns nil. It fails at once on registration errors and
// where a table is missing. It does not need the broker to start: while the subscriber reports
// transport.ErrUnavailable, Run asks again. Nor does it stop when the database fails later: it
// holds what it has, and goes on when the database does.
//
// Processes of one queue may run at the same time, and so may several Runs of one Replica.
func (r *Replica) Run(ctx context.Context, subscriber message.Subscriber) error {
	if err := r.start(); err != nil {
		return err
	}
	if err := r.checkTables(ctx, r.order...); err != nil && ctx.Err() == nil {
		return err
	}
	if r.listener != nil && ctx.Err() == nil {
		if err := r.listener.Starts(ctx); err != nil && ctx.Err() == nil {
			return err
		}
	}
	r.recallMasters(ctx)
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
	running.Go(func() { r.watchQueue(ctx, subscriber) })
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

// Running is closed once every subscription exists: from then on, no message is missed for want of
// a queue.
func (r *Replica) Running() <-chan struct{} { return r.running }

// checkTables fails where every message would: better at the start than in the dead letters.
func (r *Replica) checkTables(ctx context.Context, models ...*binding) error {
	if r.tables == nil {
		return nil
	}
	if err := r.tables.RequireMigrated(ctx, db.Replica); err != nil {
		return fmt.Errorf("check the replica's tables: %w (or call Migrate)", err)
	}
	if err := r.tables.LearnLimits(ctx); err != nil {
		return err
	}
	var errs []error
	for _, b := range models {
		if m, is := b.mirror(); is {
			errs = append(errs, m.check(ctx, &r.engine))
		}
	}
	if slices.ContainsFunc(models, isMirror) {
		errs = append(errs, r.tables.CheckSession(ctx, r.db))
	}
	return errors.Join(errs...)
}

// subscriptions are one per queue where the subscriber takes all topics of a queue at once, and
// else one per model: the window is shared out among them. A stock subscriber waits for every ack;
// it gets as many as there are workers.
func (r *Replica) subscriptions(subscriber message.Subscriber) (all []*subscription) {
	add := func(
		subscribe func(context.Context, *subscription) (transport.Subscription, error),
		topics ...string,
	) {
		all = append(all, &subscription{engine: &r.engine, topics: topics, subscribe: subscribe})
	}
	switch s := subscriber.(type) {
	case transport.BatchSubscriber:
		for _, topics := range r.topicsByQueue(s) {
			add(func(ctx context.Context, sub *subscription) (transport.Subscription, error) {
				return s.SubscribeBatch(ctx, sub.topics, sub.sizes.now())
			}, topics...)
		}
	case transport.WindowSubscriber:
		for _, b := range r.order {
			add(func(ctx context.Context, sub *subscription) (transport.Subscription, error) {
				messages, err := s.SubscribeWindow(ctx, sub.topics[0], sub.sizes.now())
				return transport.Subscription{Messages: messages, Settle: settleEach}, err
			}, b.model)
		}
	default:
		for _, b := range r.order {
			for range r.config.Workers {
				add(func(ctx context.Context, sub *subscription) (transport.Subscription, error) {
					messages, err := s.Subscribe(ctx, sub.topics[0])
					return transport.Subscription{Messages: messages, Settle: settleEach}, err
				}, b.model)
			}
		}
	}
	for _, sub := range all {
		sub.sizes = r.share(subscriber, len(all))
	}
	return all
}

// topicsByQueue groups the models by the queue that their messages come from, in the order of
// registration: nearly always it is one.
func (r *Replica) topicsByQueue(s transport.BatchSubscriber) (groups [][]string) {
	index := map[string]int{}
	for _, b := range r.order {
		queue := s.Queue(b.model)
		i, known := index[queue]
		if !known {
			i = len(groups)
			index[queue] = i
			groups = append(groups, nil)
		}
		groups[i] = append(groups[i], b.model)
	}
	return groups
}

// settleEach is for subscribers that look at each message's own ack.
func settleEach(acked, returned []*message.Message) {
	for _, delivery := range acked {
		delivery.Ack()
	}
	for _, delivery := range returned {
		delivery.Nack()
	}
}

// share is what each of some subscriptions has of Config.Window; a stock subscriber has one message
// at a time.
func (r *Replica) share(subscriber message.Subscriber, subscriptions int) sizes {
	if _, windowed := subscriber.(transport.WindowSubscriber); windowed {
		return sizesFor(r.window(subscriptions), r.config.WindowBytes)
	}
	return sizes{window: 1}
}

// window is a subscription's share of Config.Window.
func (r *Replica) window(subscriptions int) int { return max(r.config.Window/subscriptions, 1) }

func newIntake(e *engine) *intake {
	nothing := make(chan struct{})
	close(nothing)
	in := &intake{engine: e}
	in.stage = &stage{intake: in, before: nothing}
	return in
}
