package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"

	"github.com/cqrsync/cqrsync/internal/db"
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

// Running is closed once every subscription exists: from then on, no message is missed for want of a queue.
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

// subscription follows topics. Any model may arrive on any topic; what counts is the message.
type subscription struct {
	engine     *engine
	topics     []string
	sizes      sizes // of the window, of which Config.Window is shared out
	subscribe  func(context.Context, *subscription) (transport.Subscription, error)
	subscribed func()
}

// subscriptions are one per queue where the subscriber takes all topics of a queue at once, and else one per model: the
// window is shared out among them. A stock subscriber waits for every ack; it gets as many as there are workers.
func (r *Replica) subscriptions(subscriber message.Subscriber) (all []*subscription) {
	add := func(subscribe func(context.Context, *subscription) (transport.Subscription, error), topics ...string) {
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

// topicsByQueue groups the models by the queue that their messages come from, in the order of registration: nearly always
// it is one.
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

// follow consumes until ctx ends, and subscribes again where the subscription ends before.
func (s *subscription) follow(ctx context.Context) error {
	pause := subscribePause()
	for ctx.Err() == nil {
		some, err := s.consume(ctx)
		if err != nil && !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, errResized) && ctx.Err() == nil {
			return fmt.Errorf("subscribe to %s: %w", s.named(), err)
		}
		if some {
			pause.Reset()
		}
		if errors.Is(err, errResized) {
			continue
		}
		if err == nil {
			err = errors.New("the subscription ended")
		}
		s.wait(ctx, pause.NextBackOff(), err)
	}
	return nil
}

// named is how an error or a log line calls the topics.
func (s *subscription) named() string {
	if len(s.topics) == 1 {
		return s.topics[0]
	}
	return fmt.Sprintf("%s and %d more", s.topics[0], len(s.topics)-1)
}

func subscribePause() *backoff.ExponentialBackOff {
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
	if s.engine.trouble.worth("subscription "+s.named(), reason) {
		s.engine.log.Warn("not subscribed; trying again until it is", "topic", s.named(), "in", d, "error", reason)
	}
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
	subscribed, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	connecting := context.AfterFunc(ctx, end)
	in := newIntake(s.engine)
	in.Subscription, err = s.subscribe(subscribed, s)
	s.sizes.seen = 0
	connecting()
	if err != nil {
		return false, err
	}
	if since, was := s.engine.trouble.over("subscription " + s.named()); was {
		s.engine.log.Info("subscribed again", "topic", s.named(), "after", time.Since(since).Round(time.Second))
	}
	s.subscribed()
	for open := true; open && err == nil; {
		var carrier *message.Message
		if full, count, freed := s.engine.memory.full(); full {
			if s.sizes.filled(count) {
				err = errResized
				continue
			}
			select {
			case <-ctx.Done():
				open = false
			case <-freed:
			}
			continue
		}
		select {
		case <-ctx.Done():
			open = false
		case carrier, open = <-in.Messages:
		}
		if carrier == nil {
			continue
		}
		some = true
		if isControl(carrier) {
			in.control(ctx, carrier)
			continue
		}
		in.unsettled.Add(1)
		in.stage.pending.Add(1)
		s.engine.memory.take(len(carrier.Payload))
		if s.sizes.saw(len(carrier.Payload), s.engine.memory.limit) {
			err = errResized
		}
		d := s.engine.read(delivery{
			ctx: withValues(ctx, carrier.Context()), from: in.stage, carrier: carrier,
			uuid: carrier.UUID, body: carrier.Payload, headers: carrier.Metadata,
		})
		s.engine.hears(d.message)
		s.engine.submit(d)
	}
	if full, _, _ := s.engine.memory.full(); err != nil && full {
		endSoon(end, &in.unsettled)
	}
	in.unsettled.Wait()
	end()
	for carrier := range in.Messages { // on its way when the reading stopped
		in.Settle(nil, []*message.Message{carrier})
	}
	return some, err
}

// errResized ends a subscription whose messages have another size than its window was made for.
var errResized = errors.New("the window does not fit the size of the messages")

// intake is what one subscription delivers, until it is acknowledged or returned.
type intake struct {
	engine *engine
	transport.Subscription
	unsettled sync.WaitGroup
	stage     *stage // of the next message
}

func newIntake(e *engine) *intake {
	nothing := make(chan struct{})
	close(nothing)
	in := &intake{engine: e}
	in.stage = &stage{intake: in, before: nothing}
	return in
}

func (in *intake) ended(attempts []*attempt) {
	var acked, returned []*message.Message
	size := 0
	for _, a := range attempts {
		size += len(a.carrier.Payload)
		if a.outcome == Returned {
			if in.engine.trouble.worth("returned", a.result) {
				in.engine.log.Warn("message returned to the broker", a.attrs("error", a.result)...)
			}
			returned = append(returned, a.carrier)
		} else {
			acked = append(acked, a.carrier)
		}
	}
	in.Settle(acked, returned)
	in.engine.memory.give(size, len(attempts))
	in.unsettled.Add(-len(attempts))
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
