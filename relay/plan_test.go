package relay

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/transport"
)

// slow takes messages and does not say what became of them until ctx ends.
type slow struct{ everywhere }

func (slow) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	<-ctx.Done()
	return make([]error, len(batch))
}

// revisions makes that many messages of each key, none of which replaces another: the first of each, the second of each.
func revisions(n int, keys ...string) (all []queue.Message) {
	for revision := range int64(n) {
		for _, key := range keys {
			all = append(all, queue.Message{
				Model: "order", Key: key, Revision: revision, Signal: "SAVE", Keep: true,
				PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
			})
		}
	}
	return all
}

// step lets a relay do what it can, and waits a little for what comes of it.
func step(ctx context.Context, r *Relay) {
	r.advance(ctx)
	ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	r.wait(ctx)
}

// What is read and has no room is read again, past everything that is in its way.
func TestABacklogOfFewKeysIsReadNoFasterThanItIsSent(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		r := newRelay(t, db, slow{}, Config{BatchSize: 10})
		var keys []string
		for key := range 25 {
			keys = append(keys, fmt.Sprint(key))
		}
		require.NoError(t, storeOf(r).Append(t.Context(), db, revisions(20, keys...), nil))

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		for quiet := 0; quiet < 5; {
			before := len(r.flow.known)
			step(ctx, r)
			quiet++
			if r.tasks.messages == 0 || r.tasks.claiming || len(r.flow.known) != before {
				quiet = 0
			}
		}
		require.GreaterOrEqual(t, len(r.flow.known), 20, "the broker has two batches")
		for key, q := range r.flow.keys {
			require.Nil(t, q.more, "there was no room for the next message of key %s", key.Key)
		}
		cancel()
		for r.finishing(ctx) {
			r.wait(context.Background())
		}
	})
}

// Messages behind others of their keys are no reason to read nothing else, if they keep nobody busy.
func TestFewKeysThatMoveSlowlyHoldUpNoOther(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		r := newRelay(t, db, slow{}, Config{BatchSize: 10})
		require.NoError(t, storeOf(r).Append(t.Context(), db, revisions(20, "a", "b", "c"), nil))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		deadline := time.Now().Add(time.Minute)
		until := func(what string, happened func() bool) {
			for !happened() {
				require.True(t, time.Now().Before(deadline), what)
				step(ctx, r)
			}
		}
		until("the three keys are not read", func() bool { return r.flow.behind > 20 })
		require.NoError(t, storeOf(r).Append(t.Context(), db, revisions(1, "other"), nil))
		until("the other key is not read", func() bool { return r.flow.keys[queue.Key{Model: "order", Key: "other"}] != nil })
		cancel()
		for r.finishing(ctx) {
			r.wait(context.Background())
		}
	})
}

// backlog returns a function that plans a claim and notes what it brings: as many messages as it asks for, made by message.
func backlog(lanes int, message func(n int) queue.Message) (claim func(now time.Time) plan) {
	reader, n := newReader(Config{}.withDefaults()), 0
	owned := make([]queue.Lane, lanes)
	for i := range owned {
		owned[i].Lane = i
	}
	reader.restart(Config{}.withDefaults(), owned)
	return func(now time.Time) plan {
		p := reader.plan(now)
		got := reading{checked: p.check, waiting: func(int) bool { return false }}
		for _, part := range p.parts {
			for range p.perLane {
				n++
				m := message(n)
				m.ID, m.Lane = int64(n), part.start.Lane
				got.claimed = append(got.claimed, &queue.Claimed{Message: m})
			}
		}
		got.writers.Drawn = int64(n)
		reader.note(p, got, p.perLane)
		return p
	}
}

// To look at a backlog in vain takes as long as to send some thousand messages of it.
func TestABacklogIsCompactedWhereItsMessagesMayBeDropped(t *testing.T) {
	keep := true
	claim := backlog(1, func(n int) queue.Message { return queue.Message{Signal: "SAVE", Keep: keep || n%2 == 0} })
	require.Zero(t, claim(time.Now()).compact, "nothing is known of it")
	keep = false
	require.Zero(t, claim(time.Now()).compact, "of what was seen all is kept")
	require.Positive(t, claim(time.Now()).compact, "some may be dropped")
}

func TestNoClaimFromABacklogReadsAgainWhatTheOnesBeforeBrought(t *testing.T) {
	claim := backlog(1, func(int) queue.Message { return queue.Message{} })
	claim(time.Now()) // that it is a backlog is known after the first
	claim(time.Now())
	for range 5 {
		p := claim(time.Now())
		require.Equal(t, p.parts[0].high, p.parts[0].start.After)
	}
}

// It takes a second where half a million messages were removed, and nothing leaves meanwhile.
func TestABacklogIsLookedBackAtLaneByLane(t *testing.T) {
	const lanes = 4
	claim := backlog(lanes, func(int) queue.Message { return queue.Message{} })
	now := time.Now()
	claim(now) // that it is a backlog is known after the first, and low-water marks move with the second
	claim(now)
	looked := map[int]int{}
	for range 2 * lanes {
		now = now.Add(time.Minute)
		p := claim(now)
		require.Equal(t, 1, p.back)
		for _, part := range p.parts {
			if part.start.After == 0 {
				looked[part.start.Lane]++
			}
		}
	}
	require.Equal(t, map[int]int{0: 2, 1: 2, 2: 2, 3: 2}, looked)
}
