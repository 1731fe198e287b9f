package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
)

// script answers the first publications of some messages as it says, and confirms everything else.
func script(fates map[string][]fate) func(m *envelope.Message) fate {
	return func(m *envelope.Message) fate {
		name := nameOf(m.Key, m.Revision)
		if left := fates[name]; len(left) > 0 {
			fates[name] = left[1:]
			return left[0]
		}
		return confirmed
	}
}

// A message that replaced another in memory is published, and its confirm is lost with the relay.
// The one that it replaced must not leave from the next relay, which reads one message of a lane at
// a time.
func TestWhatWasReplacedInMemoryNeverLeavesAfterwards(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		w := newWitness(e)
		published := make(chan struct{})
		var once sync.Once
		first := &connection{witness: w, plan: func(m *envelope.Message) fate {
			if m.Revision == 0 {
				return confirmed
			}
			once.Do(func() { close(published) })
			return unanswered
		}}
		e.append(t, state("1", 0), state("1", 1), state("1", 2), save("1", 3), state("1", 4), state("1", 5))
		rel, stop := e.start(t, first, relay.Config{BatchSize: 1000})
		wait(t, published, "what replaced others")
		w.kill(t, first, rel, stop)

		e.start(t, &connection{witness: w, plan: script(nil)}, relay.Config{BatchSize: 1})
		e.requireSent(t)
		w.requireNoFault(t)
		require.Subset(t, w.firsts(), []string{"1/2", "1/3", "1/5"})
		require.NotContains(t, w.firsts(), "1/1")
	})
}

// The broker refuses a message that replaced others, after it had it once: its key waits, and is
// read again, bit by bit.
func TestWhatWasReplacedNeverLeavesAfterItsSuccessorWasRefused(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		w := newWitness(e)
		plan := script(map[string][]fate{"1/3": {unanswered, rejected}, "2/0": {rejected}, "2/2": {unanswered, rejected}})
		e.append(t, state("1", 0), state("1", 1), state("1", 2), state("1", 3), state("2", 0))
		e.start(t, &connection{witness: w, plan: plan}, relay.Config{RetryMin: 200 * time.Millisecond})
		e.append(t, state("2", 1), state("2", 2)) // what replaces a message that was refused
		e.requireSent(t)
		w.requireNoFault(t)
		require.Contains(t, w.firsts(), "1/3")
		require.Contains(t, w.firsts(), "2/2")
	})
}

// Relays come, go and are killed while the broker loses confirms, refuses messages and goes away.
// All in all no revision arrives for the first time after a newer one of its key, none leaves that
// would make that possible, and nothing says that something is missing where nothing is.
func TestFirstPublicationsAreInOrderWhateverFails(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("CQRSYNC_TEST_SEED"); text != "" {
		var err error
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("CQRSYNC_TEST_SEED=%d", seed)
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		const keys, revisions, lives = 12, 25, 10
		e := newEnv(t, db)
		w := newWitness(e)
		source := rand.New(rand.NewPCG(seed, 1)) // under the witness's lock
		troubled := func(*envelope.Message) fate {
			switch n := source.IntN(100); {
			case n < 8:
				return unanswered
			case n < 12:
				return cutOff
			case n < 16:
				return rejected
			}
			return confirmed
		}
		var writing sync.WaitGroup
		handed := handover.New()
		writing.Go(func() { e.write(t, rand.New(rand.NewPCG(seed, 2)), handed, keys, revisions) })
		lifetimes := rand.New(rand.NewPCG(seed, 3))
		for range lives {
			c := &connection{witness: w, plan: troubled}
			rel, stop := e.start(t, c, relay.Config{
				BatchSize: 1 + lifetimes.IntN(40), RetryMin: time.Millisecond, RetryMax: 20 * time.Millisecond, MaxAttempts: 1000,
				Handover: []relay.Handover{nil, handed}[lifetimes.IntN(2)],
			})
			wait(t, rel.Running(), "lanes")
			want := len(w.firsts()) + 1 + lifetimes.IntN(30)
			eventually(t, func() bool { return len(w.firsts()) >= want || e.status(t).Unsent == 0 }, "nothing arrives")
			if lifetimes.IntN(4) == 0 {
				require.NoError(t, stop())
			} else {
				w.kill(t, c, rel, stop)
			}
		}
		writing.Wait()
		e.start(t, &connection{witness: w, plan: script(nil)}, relay.Config{BatchSize: 1 + lifetimes.IntN(40)})
		e.requireSent(t)
		w.requireNoFault(t)
		for key := range keys {
			require.Equal(t, int64(revisions-1), w.newest[fmt.Sprint("k", key)], "the newest state of key %d", key)
		}
	})
}

// write commits revisions of some keys, a few in each transaction, of messages that may be replaced
// and some that may not, and hands them over.
func (e *env) write(t *testing.T, source *rand.Rand, to *handover.Handover, keys, revisions int) {
	next := make([]int, keys)
	for left := keys * revisions; left > 0; {
		var changes []ledger.Change
		for _, key := range source.Perm(keys)[:1+source.IntN(keys)] {
			if next[key] < revisions {
				next[key]++
				left--
				changes = append(changes, ledger.Change{Key: queue.Key{Model: "order", Key: fmt.Sprint("k", key)}})
			}
		}
		appended, before := &handover.Appended{}, time.Time{}
		err := e.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			drawn, err := e.Lock(ctx, tx, changes)
			if err != nil {
				return err
			}
			var messages []queue.Message
			for _, c := range changes {
				r := drawn[c.Key]
				m := state(c.Key.Key, r.Revision)
				m.After, m.Follows, m.Updated = r.After, r.Follows, r.Updated
				switch source.IntN(12) {
				case 0:
					m.Keep = true
				case 1:
					m.Previous = json.RawMessage(`{"status":"old"}`)
				case 2:
					m.Signal = "DELETE"
				}
				messages = append(messages, m)
			}
			before = time.Now()
			return e.Append(ctx, tx, messages, appended)
		})
		if !assert.NoError(t, err) {
			return
		}
		to.Offer(appended.Offer(before))
	}
}
