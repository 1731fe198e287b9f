package relay_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// The four ways in which outboxes with several relays lose the order of a key, each with what would show it.

func TestAPredecessorInBackoffIsNotOvertaken(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		refused := make(chan struct{}, 1000)
		healed := make(chan struct{})
		e.broker.refuse = func(m *envelope.Message) error {
			select {
			case <-healed:
				return nil
			default:
			}
			if m.Key == "bad" && m.Revision == 1 {
				refused <- struct{}{}
				return errors.New("not now")
			}
			return nil
		}
		e.append(t, save("bad", 0), save("bad", 1), save("bad", 2))
		cfg := relay.Config{RetryMin: 200 * time.Millisecond, RetryMax: 200 * time.Millisecond, MaxAttempts: 1 << 30, LeaseTTL: time.Second}
		_, stop := e.start(t, e.broker, cfg)
		wait(t, refused, "the failure")
		// What comes later, and another relay that knows nothing of the failure, must wait as well.
		e.append(t, save("bad", 3), save("good", 0))
		second, _ := e.start(t, e.broker, cfg)
		require.NoError(t, stop())
		wait(t, second.Running(), "the second relay")
		wait(t, refused, "another try")
		eventually(t, func() bool { return e.status(t).Unsent == 3 }, "the other key leaves")
		require.ElementsMatch(t, []string{"bad/0", "good/0"}, e.broker.received())
		close(healed)
		e.requireSent(t)
		e.broker.requireOrder(t)
		require.Len(t, e.broker.received(), 5)
	})
}

func TestANewerStateReplacesTheOneInBackoff(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.broker.refuse = func(m *envelope.Message) error {
			if m.Revision == 4 {
				return errors.New("too large")
			}
			return nil
		}
		e.append(t, state("1", 4))
		rel, _ := e.start(t, e.broker, relay.Config{RetryMin: time.Hour})
		eventually(t, func() bool { return e.status(t).Retries == 1 }, "the failure")
		e.append(t, state("1", 5))
		e.requireSent(t)
		require.Equal(t, []string{"1/5"}, e.broker.received())
		require.Equal(t, int64(3), *e.broker.got[0].After, "what was sent before the one that failed")
		require.Equal(t, int64(1), rel.Stats().Compacted)
		require.Zero(t, e.status(t).Retries)
	})
}

// state is a message that a newer one of the key may replace.
func state(key string, revision int64) queue.Message {
	m := save(key, revision)
	m.Keep = false
	return m
}

// sender is a publisher that several relays share. It says when a key is in two calls at once.
type sender struct {
	*broker
	mu       sync.Mutex
	inFlight map[string]bool
	calls    int
	most     int // calls at once
}

func (s *sender) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	s.mu.Lock()
	s.calls++
	s.most = max(s.most, s.calls)
	for _, out := range batch {
		key := out.Message.Metadata.Get("cqrs_key")
		if s.inFlight[key] {
			s.note(fmt.Errorf("key %s is in two calls at once", key))
		}
		s.inFlight[key] = true
	}
	s.mu.Unlock()
	errs := s.broker.PublishBatch(ctx, batch)
	select { // the answer takes a while, so that calls overlap
	case <-ctx.Done():
	case <-time.After(3 * time.Millisecond):
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	for _, out := range batch {
		delete(s.inFlight, out.Message.Metadata.Get("cqrs_key"))
	}
	return errs
}

func TestTheRowsOfOneKeyAreNotSpreadOverParallelSenders(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		s := &sender{broker: e.broker, inFlight: map[string]bool{}}
		e.append(t, saves(150, 6)...)
		e.start(t, s, relay.Config{BatchSize: 40})
		e.requireSent(t)
		require.Len(t, e.broker.received(), 900)
		e.broker.requireOrder(t)
		require.Greater(t, s.most, 1, "calls overlap")
	})
}

func TestTwoRelaysDoNotHaveNeighboursOfOneKeyAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		s := &sender{broker: e.broker, inFlight: map[string]bool{}}
		cfg := relay.Config{BatchSize: 10, LeaseTTL: 3 * time.Second}
		first, stop := e.start(t, s, cfg)
		wait(t, first.Running(), "the first relay")
		const keys, revisions = 8, 60
		all := saves(keys, revisions)
		e.append(t, all[:len(all)/2]...)
		second, _ := e.start(t, s, cfg) // takes lanes in the middle of it
		if !oneRelay(db) {
			wait(t, second.Running(), "the second relay's share")
		}
		e.append(t, all[len(all)/2:]...)
		require.NoError(t, stop()) // gives lanes back in the middle of it
		e.requireSent(t)
		require.Len(t, e.broker.received(), keys*revisions, "none twice")
		e.broker.requireOrder(t)
	})
}

func TestTheOrderIsThatOfCommitsNotOfIdentities(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		if oneRelay(db) {
			t.Skip("one writer: identities are committed in order")
		}
		e := newEnv(t, db)
		e.start(t, e.broker, relay.Config{PollInterval: 5 * time.Millisecond})
		for round := range int64(5) {
			// A transaction draws an identity and stays open, while the relay gets far beyond it.
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			require.NoError(t, e.Append(t.Context(), tx, []queue.Message{save("late", 2*round)}, nil))
			for i := range int64(20) {
				e.append(t, save(fmt.Sprint("k", i), round))
				e.requireSent(t)
			}
			// It draws another one for the same key, behind all others, and commits both at once.
			require.NoError(t, e.Append(t.Context(), tx, []queue.Message{save("late", 2*round+1)}, nil))
			require.NoError(t, tx.Commit())
			e.requireSent(t)
		}
		require.Len(t, e.broker.received(), 110)
		e.broker.requireOrder(t)
	})
}
