package relay_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

func TestRunStartsWithoutTheBrokerAndWaitsForIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		var away atomic.Bool
		away.Store(true)
		tries := make(chan struct{}, 1000)
		e.broker.refuse = func(*envelope.Message) error {
			if away.Load() {
				tries <- struct{}{}
				return fmt.Errorf("dial: %w", transport.ErrUnavailable)
			}
			return nil
		}
		e.append(t, save("1", 0))
		e.start(t, e.broker, relay.Config{})
		for range 3 {
			wait(t, tries, "a try")
		}
		away.Store(false)
		e.requireSent(t)
		eventually(t, func() bool { return e.logs.count("broker available again") == 1 }, "the end of the outage is logged")
		require.Equal(t, 1, e.logs.count("broker unavailable, trying again"), "an outage is one line, not one per try")
		st := e.status(t)
		require.Zero(t, st.Retries, "no attempt is spent")
		require.Zero(t, st.DeadLetters)
	})
}

func TestARefusedMessageStopsItsOwnKeyOnly(t *testing.T) {
	for name, refusal := range map[string]error{
		"unroutable": fmt.Errorf("order: %w", transport.ErrUnroutable),
		"other":      errors.New("too large"),
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				e := newEnv(t, db)
				var healed atomic.Bool
				e.broker.refuse = func(m *envelope.Message) error {
					if m.Key == "k3" && m.Revision == 1 && !healed.Load() {
						return refusal
					}
					return nil
				}
				e.append(t, saves(10, 4)...)
				rel, _ := e.start(t, e.broker, relay.Config{RetryMin: 10 * time.Millisecond, RetryMax: 10 * time.Millisecond, MaxAttempts: 1 << 30})
				eventually(t, func() bool { return e.status(t).Unsent == 3 }, "all but the key's own messages leave")
				eventually(t, func() bool { return rel.Stats().Retries > 2 }, "it is tried again")
				require.NotContains(t, e.broker.received(), "k3/2", "nothing overtakes")
				healed.Store(true)
				e.requireSent(t)
				require.Len(t, e.broker.received(), 40)
				e.broker.requireOrder(t)
				require.Zero(t, e.status(t).Retries)
			})
		})
	}
}

// A queue that is missing for a day is not the fault of the messages that wait for it.
func TestADestinationInTroubleSpendsNoAttempts(t *testing.T) {
	for name, trouble := range map[string]error{
		"unroutable":    transport.ErrUnroutable,
		"rejected":      transport.ErrRejected,
		"not permitted": transport.ErrDestination,
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				e := newEnv(t, db)
				var mended atomic.Bool
				e.broker.refuse = func(m *envelope.Message) error {
					if m.Model == "order" && !mended.Load() {
						return fmt.Errorf("order: %w", trouble)
					}
					return nil
				}
				e.append(t, saves(5, 2)...)
				bill := save("bill", 0)
				bill.Model = "bill"
				e.append(t, bill)
				rel, _ := e.start(t, e.broker, relay.Config{RetryMin: time.Millisecond, RetryMax: 2 * time.Millisecond, MaxAttempts: 2})
				eventually(t, func() bool { return rel.Stats().Retries > 50 }, "it is tried again and again")
				require.Equal(t, []string{"bill/0"}, e.broker.received(), "another destination is not held up")
				require.Zero(t, e.status(t).DeadLetters)
				mended.Store(true)
				e.requireSent(t)
				require.Len(t, e.broker.received(), 11)
				e.broker.requireOrder(t)
				eventually(t, func() bool { return e.status(t).Retries == 0 }, "no key waits any more")
				require.Equal(t, 1, e.logs.count("the broker does not take the messages of a topic"), "one line, not one per try")
				eventually(t, func() bool { return e.logs.count("takes the messages of a topic again") == 1 }, "so is its end")
			})
		})
	}
}

// A key that is written all the time would give up its newest state for the failures of older ones.
func TestANewRevisionDoesNotInheritTheAttemptsOfTheOneItReplaces(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		const revisions = 12
		tried := make(chan int64, 1000)
		e.broker.refuse = func(m *envelope.Message) error {
			tried <- m.Revision
			if m.Revision < revisions {
				return errors.New("too large")
			}
			return nil
		}
		message := func(revision int64) queue.Message {
			m := save("1", revision)
			m.Keep = false
			return m
		}
		e.append(t, message(0))
		e.start(t, e.broker, relay.Config{RetryMin: time.Hour, RetryMax: time.Hour, MaxAttempts: 3})
		for revision := range int64(revisions) {
			for got := int64(-1); got != revision; {
				select {
				case got = <-tried:
				case <-time.After(patience):
					require.FailNow(t, "a new revision is not tried", "revision %d", revision)
				}
			}
			e.append(t, message(revision+1))
		}
		e.requireSent(t)
		require.Zero(t, e.status(t).DeadLetters)
		require.Equal(t, []string{fmt.Sprint("1/", revisions)}, e.broker.received())
		require.Zero(t, e.status(t).Retries)
	})
}

func TestAMessageThatCannotBeEncodedStopsItsOwnKeyOnly(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		bad, headers := save("bad", 0), save("headers", 0)
		bad.Data = json.RawMessage(`"not an object"`)
		e.append(t, bad, save("bad", 1), headers, save("good", 0))
		e.exec(t, `UPDATE outbox_messages SET headers = '[]' WHERE ? = 'headers'`, bun.Ident("key"))
		e.start(t, e.broker, relay.Config{MaxAttempts: 2, RetryMin: time.Millisecond, RetryMax: time.Millisecond})
		e.requireSent(t)
		require.ElementsMatch(t, []string{"good/0", "bad/1"}, e.broker.received())
		require.Equal(t, int64(2), e.status(t).DeadLetters)
	})
}

func TestAMessageIsGivenUpAfterMaxAttemptsAndTheNextOneGoes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		var tries atomic.Int64
		e.broker.refuse = func(m *envelope.Message) error {
			if m.Revision == 1 {
				tries.Add(1)
				return errors.New("poison")
			}
			return nil
		}
		e.append(t, save("1", 0), save("1", 1), save("1", 2))
		rel, stop := e.start(t, e.broker, relay.Config{MaxAttempts: 3, RetryMin: time.Millisecond, RetryMax: time.Millisecond})
		e.requireSent(t)
		require.NoError(t, stop())
		require.Equal(t, []string{"1/0", "1/2"}, e.broker.received())
		require.Equal(t, int64(3), tries.Load())
		require.Equal(t, relay.Stats{Published: 2, Batches: rel.Stats().Batches, Retries: 2, DeadLetters: 1}, rel.Stats())
		st := e.status(t)
		require.Equal(t, int64(1), st.DeadLetters)
		require.Zero(t, st.Retries)
		require.Equal(t, 1, e.logs.count("messages given up"))
	})
}

func TestRunSurvivesTheDatabaseGoingAway(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.start(t, e.broker, relay.Config{})
		e.append(t, save("1", 0))
		e.requireSent(t)
		e.exec(t, "ALTER TABLE outbox_messages RENAME TO hidden")
		eventually(t, func() bool { return e.logs.count("database unavailable, trying again") == 1 }, "the outage is logged")
		e.exec(t, "ALTER TABLE hidden RENAME TO outbox_messages")
		e.append(t, save("1", 1))
		e.requireSent(t)
		require.Equal(t, []string{"1/0", "1/1"}, e.broker.received())
		require.Equal(t, 1, e.logs.count("database unavailable, trying again"))
		require.Equal(t, 1, e.logs.count("database available again"))
	})
}

func TestWhatTheBrokerConfirmedIsNotSentAgainWhenTheDatabaseBlinks(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		var once sync.Once
		e.broker.before = func(context.Context, []transport.Outgoing) {
			once.Do(func() { e.exec(t, "ALTER TABLE outbox_messages RENAME TO hidden") })
		}
		e.append(t, saves(10, 1)...)
		e.start(t, e.broker, relay.Config{})
		eventually(t, func() bool { return e.logs.count("database unavailable, trying again") == 1 }, "the outage is logged")
		e.exec(t, "ALTER TABLE hidden RENAME TO outbox_messages")
		e.requireSent(t)
		require.Len(t, e.broker.received(), 10)
	})
}
