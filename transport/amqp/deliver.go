package amqp

import (
	"context"
	"errors"
	"fmt"

	"github.com/cqrsync/cqrsync/transport"
)

// delivery is a PublishBatch under way.
type delivery struct {
	*Publisher
	settle func(*parcel, error) // hears what became of each parcel
}

// all delivers parcels in order. Those to destinations that were refused the last time come after
// the others, which they would cost their channel.
func (d delivery) all(ctx context.Context, parcels []parcel) {
	var usual []parcel
	var doubtful []route
	held := map[route][]parcel{}
	for _, q := range parcels {
		switch reason, again := d.refused.ask(q.to()); {
		case reason != nil:
			d.settle(&q, reason)
		case again:
			if held[q.to()] == nil {
				doubtful = append(doubtful, q.to())
			}
			held[q.to()] = append(held[q.to()], q)
		default:
			usual = append(usual, q)
		}
	}
	away := d.deliver(ctx, usual)
	for _, to := range doubtful {
		if away == nil {
			away = d.tryAgain(ctx, to, held[to])
		} else {
			d.giveUp(held[to], away)
		}
	}
}

// tryAgain delivers parcels to one destination if the first of them arrives.
func (d delivery) tryAgain(ctx context.Context, to route, parcels []parcel) (away error) {
	if away := d.deliver(ctx, parcels[:1]); away != nil {
		d.giveUp(parcels[1:], away)
		return away
	}
	if reason, _ := d.refused.ask(to); reason != nil {
		for i := range parcels[1:] {
			d.settle(&parcels[1+i], reason)
		}
		return nil
	}
	d.refused.forget(to)
	return d.deliver(ctx, parcels[1:])
}

// deliver publishes parcels until the fate of each is known, and returns why the broker is away if
// it is.
//
// A message that the broker refuses ends the channel for all on it, and the broker does not say
// which one it was. So what is left goes out one by one on a new channel: the refusal meets the
// right message, and only that, or all to its destination.
func (d delivery) deliver(ctx context.Context, pending []parcel) (away error) {
	window := d.config.Window
	redeclared := false
	for len(pending) > 0 {
		unknown, err := d.attempt(ctx, pending, window, d.settle)
		pending = unknown
		var exchange *exchangeError
		switch {
		case len(pending) == 0:
		case errors.As(err, &exchange):
			pending = d.refuse(pending, err, func(q *parcel) bool {
				return q.exchange == exchange.name
			})
		case errors.Is(err, errNoExchange) && !redeclared:
			// it was there when this publisher looked: it may have been deleted since
			redeclared = true
		case !errors.Is(err, transport.ErrDestination) && !errors.Is(err, ErrRefused):
			away = fmt.Errorf("%w: %w", transport.ErrUnavailable, err)
			d.giveUp(pending, away)
			return away
		case window > 1:
			window = 1
		case errors.Is(err, ErrRefused): // with a window of 1 only the first was on its way
			d.settle(&pending[0], err)
			pending = pending[1:]
		default:
			to := pending[0].to()
			pending = d.refuse(pending, err, func(q *parcel) bool { return q.to() == to })
			window = d.config.Window
		}
	}
	return nil
}

// refuse settles the parcels to a destination that the broker refuses, and returns the others.
func (d delivery) refuse(
	pending []parcel, reason error, concerned func(*parcel) bool,
) (others []parcel) {
	noted := map[route]bool{}
	for i := range pending {
		q := &pending[i]
		if !concerned(q) {
			others = append(others, *q)
			continue
		}
		if !noted[q.to()] {
			d.refused.note(q.to(), reason)
			noted[q.to()] = true
		}
		d.settle(q, reason)
	}
	return others
}

func (d delivery) giveUp(parcels []parcel, reason error) {
	for i := range parcels {
		d.settle(&parcels[i], reason)
	}
}
