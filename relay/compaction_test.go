package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
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

func TestOfWhatPiledUpOnlyTheNewestStateOfEachKeyLeaves(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		const keys, revisions = 30, 40
		var all []queue.Message
		for revision := range int64(revisions) {
			for key := range keys {
				all = append(all, state(fmt.Sprint("k", key), revision))
			}
		}
		e.append(t, all...)
		// One claim holds a tenth of it. A compaction may take half a lease, which is long on a busy machine, too.
		rel, _ := e.start(t, e.broker, relay.Config{BatchSize: 100, LeaseTTL: time.Minute})
		e.requireSent(t)
		e.broker.requireGaps(t)
		stats := rel.Stats()
		require.Equal(t, int64(keys*revisions), stats.Published+stats.Compacted)
		require.Less(t, stats.Published, int64(keys*revisions/4), "most of it never leaves")
	})
}

// requireGaps fails unless every key's messages arrived in order up to the newest, and each says that what was sent before
// it is what arrived before it.
func (b *broker) requireGaps(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	last := map[string]int64{}
	for _, m := range b.got {
		before, known := last[m.Key]
		if !known {
			before = envelope.NothingBefore
		}
		require.Equal(t, before, *m.After, "key %s revision %d", m.Key, m.Revision)
		last[m.Key] = m.Revision
	}
	for key, revision := range last {
		require.Equal(t, int64(39), revision, key)
	}
}

func TestABusyKeyMovesAtOneStatePerAnswer(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		inFlight, release := make(chan struct{}), make(chan struct{})
		var first atomic.Bool
		e.broker.before = func(ctx context.Context, _ []transport.Outgoing) {
			if first.CompareAndSwap(false, true) {
				close(inFlight)
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
		}
		e.append(t, state("1", 0))
		rel, _ := e.start(t, e.broker, relay.Config{})
		wait(t, inFlight, "the first one")
		for revision := range int64(9) {
			e.append(t, state("1", revision+1))
		}
		e.append(t, save("2", 0))
		eventually(t, func() bool { return len(e.broker.received()) == 1 }, "another key does not wait")
		close(release)
		e.requireSent(t)
		require.Equal(t, []string{"2/0", "1/0", "1/9"}, e.broker.received())
		require.Equal(t, int64(8), rel.Stats().Compacted)
	})
}

func TestWhatNoNewerMessageReplacesLeavesWhole(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		tracked, sync, direct := state("1", 1), state("1", 2), state("1", 3)
		tracked.Previous = json.RawMessage(`{"status":"old"}`)
		sync.Signal = string(envelope.Sync)
		direct.Queue = "webhooks"
		e.append(t, save("1", 0), tracked, sync, direct, state("1", 4))
		e.start(t, e.broker, relay.Config{})
		e.requireSent(t)
		require.Equal(t, []string{"1/0", "1/1", "1/2", "1/3", "1/4"}, e.broker.received())
	})
}

// A key whose messages may not be dropped, and of which there are more than the relay takes into memory, holds up no other
// and loses nothing.
func TestAVeryBusyKeyHoldsUpNoOther(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		var all []queue.Message
		const revisions = 400
		for revision := range int64(revisions) {
			all = append(all, save("busy", revision))
		}
		e.append(t, append(all, saves(50, 1)...)...)
		e.broker.before = func(ctx context.Context, _ []transport.Outgoing) {
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
		}
		e.start(t, e.broker, relay.Config{BatchSize: 20})
		others := func() (n int) {
			for i, name := range e.broker.received() {
				if name[0] == 'k' {
					n++
				} else if n < 50 && i > revisions/2+50 {
					return -1
				}
			}
			return n
		}
		eventually(t, func() bool { return others() == 50 }, "the others wait for the busy one")
		e.requireSent(t)
		require.Equal(t, 50, others())
		e.broker.requireOrder(t)
		require.Len(t, e.broker.received(), revisions+50)
	})
}
