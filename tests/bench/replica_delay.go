package main

import (
	"context"
	"errors"
	"slices"
	"time"

	amqp091 "github.com/rabbitmq/amqp091-go"

	"github.com/cqrsync/cqrsync/envelope"
)

// delay publishes at a steady rate, and returns a percentile of the times from there to
// the ack, which follows the commit.
func (b *replicaBench) delay(
	percentile int, consume consumer,
) func(context.Context) (float64, error) {
	return func(ctx context.Context) (ms float64, err error) {
		if err := b.empty(ctx); err != nil {
			return 0, err
		}
		messages := int(b.o.duration.Seconds() * delayFor * delayRate)
		var delays []float64
		err = b.withQueue(func(c consumption, channel *amqp091.Channel) error {
			acks := make(chan time.Time, messages)
			took := make(chan float64, messages)
			c.workers = 1
			c.acked = func(at time.Time, body []byte) {
				if m, err := envelope.Decode(body, nil); err == nil {
					took <- float64(at.Sub(m.Updated).Microseconds()) / 1000
				}
				acks <- at
			}
			publishing := make(chan error, 1)
			go func() { publishing <- b.publishSteadily(ctx, channel, c.exchange, messages) }()
			_, err := b.until(ctx, consume, c, acks, messages)
			for range len(took) {
				delays = append(delays, <-took)
			}
			return errors.Join(err, <-publishing)
		})
		if err != nil {
			return 0, err
		}
		slices.Sort(delays)
		return delays[min(len(delays)-1, len(delays)*percentile/100)], nil
	}
}

func (b *replicaBench) publishSteadily(
	ctx context.Context, channel *amqp091.Channel, exchange string, messages int,
) error {
	tick := time.NewTicker(time.Second / delayRate)
	defer tick.Stop()
	for i := range messages {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if _, err := b.publish(ctx, channel, exchange, i); err != nil {
			return err
		}
	}
	return nil
}
