package relay

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// compacting is a relay that owns every lane and compacts with its next claim.
type compacting struct {
	*Relay
	db     *bun.DB
	told   bool // the database tells who writes
	except queue.Except
	lanes  []queue.Lane
}

func newCompacting(t *testing.T, db *bun.DB) *compacting {
	t.Helper()
	c := &compacting{Relay: newRelay(t, db, everywhere{}, Config{}), db: db}
	owned, err := c.queue.Balance(t.Context(), c.cfg.ID, time.Minute)
	require.NoError(t, err)
	c.lanes = owned.Lanes
	c.reader.restart(c.cfg, c.lanes)
	_, c.told, err = c.queue.Writers(t.Context())
	require.NoError(t, err)
	return c
}

// append writes states of a key that the next one replaces, and keeps those that are listed.
func (c *compacting) append(t *testing.T, db bun.IDB, key string, states int, keep ...int) {
	t.Helper()
	all := revisions(states, key)
	for i := range all {
		all[i].Keep = false
	}
	for _, i := range keep {
		all[i].Keep = true
	}
	require.NoError(t, storeOf(c.Relay).Append(t.Context(), db, all, nil))
}

func (c *compacting) unsent(t *testing.T) []*queue.Claimed {
	t.Helper()
	all, unread, err := c.queue.Claim(t.Context(), everyLane(), 100, queue.Except{})
	require.NoError(t, err)
	require.Empty(t, unread)
	return all
}

// know makes messages ones that an earlier claim brought.
func (c *compacting) know(messages []*queue.Claimed) {
	for _, m := range messages {
		c.except.IDs = append(c.except.IDs, m.ID)
		c.reader.lanes.of(m.Lane).high = m.ID
	}
}

func (c *compacting) claim(t *testing.T) reading {
	t.Helper()
	p := c.reader.plan(time.Now())
	p.compact, p.check = minWindow, true
	got, err := c.read(t.Context(), p, c.except, c.lanes)
	require.NoError(t, err)
	c.reader.note(p, got, len(got.claimed))
	return got
}

// What was dropped stays in the database's way for a while.
func TestAClaimDoesNotWalkOverWhatCompactionDropped(t *testing.T) {
	for name, test := range map[string]struct {
		before func(t *testing.T, c *compacting)
		past   int // how many of the key's messages the claim begins behind, where the database tells who writes
		left   []int64
	}{
		"nothing else is there":       {func(t *testing.T, c *compacting) { c.append(t, c.db, "a", 9) }, 8, []int64{8}},
		"one names the one before it": {func(t *testing.T, c *compacting) { c.append(t, c.db, "a", 9, 3) }, 0, []int64{0, 1, 2, 3, 4, 5, 6, 7, 8}},
		"another writes": {func(t *testing.T, c *compacting) {
			if c.told { // no other database is asked, and SQLite has one writer
				tx, err := c.db.BeginTx(t.Context(), nil)
				require.NoError(t, err)
				t.Cleanup(func() { _ = tx.Rollback() }) // nothing is to come of it
				c.append(t, tx, "b", 1)
			}
			c.append(t, c.db, "a", 9)
		}, 0, []int64{8}},
		"the key waits": {func(t *testing.T, c *compacting) {
			c.append(t, c.db, "a", 9)
			require.NoError(t, c.queue.Finish(t.Context(), "other", nil, queue.Outcome{
				Failed: []queue.Failure{{Claimed: c.unsent(t)[0], Error: "no", Wait: time.Hour}},
			}))
		}, 0, nil}, // what ends the wait is read next time
		"some are in memory": {func(t *testing.T, c *compacting) {
			c.append(t, c.db, "a", 9)
			c.know(c.unsent(t)[:4])
		}, 8, []int64{8}},
		"one was committed late": {func(t *testing.T, c *compacting) {
			c.append(t, c.db, "a", 9)
			c.know(c.unsent(t)[:4])
			c.except.IDs = slices.Delete(c.except.IDs, 1, 2)
		}, 0, []int64{1, 8}},
		"there was no room for one": {func(t *testing.T, c *compacting) {
			c.append(t, c.db, "a", 9)
			c.know(c.unsent(t)[:4])
			c.except = queue.Except{Keys: []queue.Key{{Model: "order", Key: "a"}}}
			c.reader.lanes.of(c.unsent(t)[0].Lane).blocked = true
		}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				c := newCompacting(t, db)
				test.before(t, c)
				all := c.unsent(t)
				at := c.reader.lanes.of(all[0].Lane)
				got := c.claim(t)
				var left []int64
				for _, m := range got.claimed {
					left = append(left, m.Revision)
				}
				require.Equal(t, test.left, left)
				past := got.dropped[at.number]
				if !c.told || test.past == 0 {
					require.Zero(t, past)
					return
				}
				require.GreaterOrEqual(t, past, all[test.past-1].ID)
				require.Less(t, past, all[test.past].ID)
				require.GreaterOrEqual(t, at.low, past)
			})
		})
	}
}

// A claim that has grown too large says nothing about the lanes that it left unread.
func TestALaneThatWasNotReadIsNotComplete(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		c := newCompacting(t, db)
		large := json.RawMessage(`{"note":"` + strings.Repeat("a", 256<<10) + `"}`)
		for key := range 40 {
			all := revisions(2, fmt.Sprint(key))
			all[0].Data, all[1].Data = large, large
			require.NoError(t, storeOf(c.Relay).Append(t.Context(), db, all, nil))
		}
		for _, at := range c.reader.lanes {
			at.high = 1 << 60
		}
		p := c.reader.plan(time.Now())
		complete, _, err := c.complete(t.Context(), p, queue.Except{})
		require.NoError(t, err)
		occupied := 0
		for _, start := range everyLane() {
			claimed, _, err := c.queue.Claim(t.Context(), []queue.Start{start}, 1, queue.Except{})
			require.NoError(t, err)
			if len(claimed) > 0 {
				occupied++
				require.False(t, complete[start.Lane], "lane %d", start.Lane)
			}
		}
		require.NotZero(t, occupied)
	})
}
