package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// far is a publisher whose broker can be out of its reach, while it is within that of others.
type far struct {
	*broker
	away atomic.Bool
}

var errFar = fmt.Errorf("%w: login refused", transport.ErrUnavailable)

func newFar(b *broker) *far {
	f := &far{broker: b}
	f.away.Store(true)
	return f
}

func (f *far) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	if !f.away.Load() {
		return f.broker.PublishBatch(ctx, batch)
	}
	errs := make([]error, len(batch))
	for i := range errs {
		errs[i] = errFar
	}
	return errs
}

// asked is a publisher that can be asked whether it reaches the broker.
type asked struct{ *far }

func (a asked) Probe(context.Context) error {
	if a.away.Load() {
		return errFar
	}
	return nil
}

func TestARelayThatCannotReachItsBrokerLeavesItsLanesToOthers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		cfg := relay.Config{LeaseTTL: 2 * time.Second}
		publisher := newFar(e.broker)
		sick, _ := e.start(t, publisher, cfg)
		wait(t, sick.Running(), "the first relay's lanes")
		e.append(t, saves(20, 2)...)
		eventually(t, func() bool { return sick.Stats().BrokerAway }, "an outage")
		require.Equal(t, int64(64), sick.Stats().Lanes, "alone it keeps them")
		well, _ := e.start(t, e.broker, cfg)
		e.requireSent(t)
		eventually(t, func() bool { return well.Stats().Lanes == 64 }, "the healthy one has all")
		e.broker.requireOrder(t)
		require.Positive(t, e.logs.count("cannot reach its broker, and others are at work"))

		publisher.away.Store(false)
		e.append(t, saves(20, 2)...)
		e.requireSent(t)
		if !oneRelay(db) {
			eventually(t, func() bool { return sick.Stats().Lanes == 32 && well.Stats().Lanes == 32 }, "fair shares again")
		}
	})
}

func TestARelayThatCannotReachItsBrokerTakesNoLanesFromOthers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		cfg := relay.Config{LeaseTTL: 20 * time.Second}
		well, stop := e.start(t, e.broker, cfg)
		wait(t, well.Running(), "the healthy relay's lanes")
		sick, _ := e.start(t, asked{newFar(e.broker)}, cfg)
		eventually(t, func() bool { return sick.Stats().BrokerAway }, "it is found out before there is anything to send")
		e.append(t, saves(20, 2)...)
		e.requireSent(t)
		require.Zero(t, sick.Stats().Lanes)
		require.Equal(t, int64(64), well.Stats().Lanes)
		require.NoError(t, stop())
		eventually(t, func() bool { return sick.Stats().Lanes == 64 }, "when nobody else is there it waits for the broker itself")
	})
}

// A relay that was alone leaves its lanes also when nothing is to be sent, and takes part again
// when its broker is there.
func TestAnIdleRelayFindsOutWhetherItsBrokerIsThere(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		cfg := relay.Config{LeaseTTL: 2 * time.Second}
		publisher := asked{newFar(e.broker)}
		sick, _ := e.start(t, publisher, cfg)
		wait(t, sick.Running(), "the lanes, which nobody else takes")
		require.True(t, sick.Stats().BrokerAway)
		publisher.away.Store(false)
		eventually(t, func() bool { return !sick.Stats().BrokerAway }, "the end of the outage")

		publisher.away.Store(true)
		well, _ := e.start(t, e.broker, cfg)
		e.append(t, saves(20, 2)...)
		e.requireSent(t)
		eventually(t, func() bool { return well.Stats().Lanes == 64 && sick.Stats().Lanes == 0 }, "it leaves them")
		publisher.away.Store(false)
		eventually(t, func() bool { return !sick.Stats().BrokerAway }, "the end of the outage")
		if !oneRelay(db) {
			eventually(t, func() bool { return sick.Stats().Lanes == 32 && well.Stats().Lanes == 32 }, "fair shares")
		}
	})
}

// When no relay reaches the broker, every lane has an owner all the same, most of the time, and
// somebody finds out when it is back.
func TestABrokerThatIsAwayForAllFindsARelayWhenItIsBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		cfg := relay.Config{LeaseTTL: 2 * time.Second}
		first, second, third := newFar(e.broker), asked{newFar(e.broker)}, newFar(e.broker)
		e.append(t, saves(20, 2)...)
		e.start(t, first, cfg)
		e.start(t, second, cfg)
		e.start(t, third, cfg)
		eventually(t, func() bool { return e.logs.count("cannot reach its broker, and others are at work") > 0 }, "one leaves")
		eventually(t, func() bool { return e.status(t).LanesOwned == 64 }, "one stays")
		for _, f := range []*far{first, second.far, third} {
			f.away.Store(false)
		}
		e.requireSent(t)
		e.broker.requireOrder(t)
	})
}

// What was sent and not answered may be under way still. Its lane goes to nobody else before that
// is there or lost.
func TestLanesAreNotHandedOverWhileSomethingUnknownIsOnItsWay(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		unknown := make(chan struct{})
		var published atomic.Bool
		e.broker.refuse = func(*envelope.Message) error {
			if published.CompareAndSwap(false, true) {
				close(unknown)
			}
			return errors.Join(transport.ErrUnavailable, errors.New("no confirm came"))
		}
		e.append(t, save("1", 0))
		_, stop := e.start(t, e.broker, relay.Config{LeaseTTL: time.Minute})
		wait(t, unknown, "a message without an answer")
		require.NoError(t, stop())
		st := e.status(t)
		require.Equal(t, int64(64), st.LanesOwned, "they run out")
		require.Zero(t, st.Relays)
	})
}
