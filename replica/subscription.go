package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/cenkalti/backoff/v5"

	"github.com/cqrsync/cqrsync/transport"
)

// subscription follows topics. Any model may arrive on any topic; what counts is the message.
type subscription struct {
	engine     *engine
	topics     []string
	sizes      sizes // of the window, of which Config.Window is shared out
	subscribe  func(context.Context, *subscription) (transport.Subscription, error)
	subscribed func()
}

// follow consumes until ctx ends, and subscribes again where the subscription ends before.
func (s *subscription) follow(ctx context.Context) error {
	pause := subscribePause()
	for ctx.Err() == nil {
		some, err := s.consume(ctx)
		if err != nil && !errors.Is(err, transport.ErrUnavailable) && !errors.Is(err, errResized) &&
			ctx.Err() == nil {
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
	if s.engine.trouble.worth(subscribing+s.named(), reason) {
		s.engine.log.Warn("not subscribed; trying again until it is", "topic", s.named(), "in", d,
			"error", reason)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// consume subscribes and hands over messages until the channel closes or ctx ends, and says whether
// there were any. The subscription outlives ctx until the messages in flight are acknowledged: an
// ack that comes after it is worth nothing.
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
	if since, was := s.engine.trouble.over(subscribing + s.named()); was {
		s.engine.log.Info("subscribed again", "topic", s.named(), "after",
			time.Since(since).Round(time.Second))
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
		if s.sizes.saw(len(carrier.Payload), s.engine.memory.limit) {
			err = errResized
		}
		in.take(ctx, s.engine, carrier)
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
