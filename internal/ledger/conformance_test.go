package ledger_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// Every database runs the one suite, and so does PostgreSQL with a bun.DB that knows nothing of its
// driver.

func TestLedger(t *testing.T) {
	dbtest.Everywhere(t, func(t *testing.T, open func(testing.TB) *bun.DB) {
		for name, test := range map[string]func(*testing.T, suite){
			"revisions start at 0 and count":               countsRevisions,
			"a row that was there before starts at 1":      startsAtOne,
			"after is the last revision that was sent":     remembersSent,
			"updated never goes back":                      updatedGrows,
			"a rolled back revision is drawn again":        rollsBackRevisions,
			"settled keys are deleted, restored, undone":   settlesKeys,
			"settling one key waits for no other":          settlesAlone,
			"tracked values come back with the next lock":  keepsTracked,
			"more keys than one statement takes":           locksMany,
			"concurrent transactions draw one after other": locksExclude,
			"deleted keys are forgotten on request":        forgetsDeletedKeys,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d, err := db.New(open(t), db.Names{Prefix: "x_"})
				require.NoError(t, err)
				_, err = tables.New(d).Migrate(t.Context(), db.Outbox)
				require.NoError(t, err)
				test(t, suite{ledger.NewRevisions(d)})
			})
		}
	})
}

// suite is the ledger of a master.
type suite struct{ *ledger.Revisions }

// created are changes of keys that are new with this transaction.
func created(keys ...db.Key) []ledger.Change {
	changes := make([]ledger.Change, len(keys))
	for i, k := range keys {
		changes[i].Key = k
	}
	return changes
}

func key(text string) db.Key { return db.Key{Model: "order", Key: text} }

// inTx commits what fn does.
func (s suite) inTx(t *testing.T, fn func(ctx context.Context, tx bun.Tx) error) {
	t.Helper()
	require.NoError(t, s.DB().RunInTx(t.Context(), nil, fn))
}

// lock commits one Lock and Settle.
func (s suite) lock(t *testing.T, done ledger.Settlement, keys ...db.Key) (locked map[db.Key]ledger.Revision) {
	t.Helper()
	s.inTx(t, func(ctx context.Context, tx bun.Tx) (err error) {
		if locked, err = s.Lock(ctx, tx, created(keys...)); err != nil {
			return err
		}
		return s.Settle(ctx, tx, done)
	})
	return locked
}

func countsRevisions(t *testing.T, s suite) {
	for want := range int64(3) {
		locked := s.lock(t, ledger.Settlement{}, key("b"), key("a"))
		require.Len(t, locked, 2)
		require.Equal(t, want, locked[key("a")].Revision)
		require.Equal(t, want, locked[key("b")].Revision)
	}
	require.Zero(t, s.lock(t, ledger.Settlement{}, db.Key{Model: "customer", Key: "a"})[db.Key{Model: "customer", Key: "a"}].Revision)
}

func startsAtOne(t *testing.T, s suite) {
	for want := range int64(3) {
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			locked, err := s.Lock(ctx, tx, []ledger.Change{{Key: key("old"), Existed: true}, {Key: key("new")}})
			require.Equal(t, want+1, locked[key("old")].Revision)
			require.Equal(t, want, locked[key("new")].Revision)
			require.Equal(t, want > 0, locked[key("old")].After != nil)
			return err
		})
	}
}

func remembersSent(t *testing.T, s suite) {
	require.Nil(t, s.lock(t, ledger.Settlement{}, key("a"))[key("a")].After)
	require.EqualValues(t, 0, *s.lock(t, ledger.Settlement{Unsent: []db.Key{key("a")}}, key("a"))[key("a")].After)
	require.EqualValues(t, 0, *s.lock(t, ledger.Settlement{}, key("a"))[key("a")].After, "revision 1 was not sent")
	require.EqualValues(t, 2, *s.lock(t, ledger.Settlement{}, key("a"))[key("a")].After)
}

func updatedGrows(t *testing.T, s suite) {
	var last time.Time
	for range 20 {
		now := s.lock(t, ledger.Settlement{}, key("a"))[key("a")].Updated
		require.True(t, now.After(last), "%s after %s", now, last)
		last = now
	}
	require.WithinDuration(t, time.Now(), last, time.Minute)
}

func rollsBackRevisions(t *testing.T, s suite) {
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := s.Lock(ctx, tx, created(key("a"))); err != nil {
			return err
		}
		return context.Canceled
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, s.lock(t, ledger.Settlement{}, key("a"))[key("a")].Revision)
}

func settlesKeys(t *testing.T, s suite) {
	s.lock(t, ledger.Settlement{Deleted: []db.Key{key("a")}}, key("a"))
	again := s.lock(t, ledger.Settlement{Restored: []db.Key{key("a")}}, key("a"))[key("a")]
	require.True(t, again.WasDeleted)
	require.EqualValues(t, 1, again.Revision)
	live := s.lock(t, ledger.Settlement{}, key("a"))[key("a")]
	require.False(t, live.WasDeleted)

	undo := func(k db.Key) {
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			locked, err := s.Lock(ctx, tx, created(k))
			if err != nil {
				return err
			}
			return s.Settle(ctx, tx, ledger.Settlement{Unchanged: []ledger.Revision{locked[k]}})
		})
	}
	undo(key("a"))
	next := s.lock(t, ledger.Settlement{}, key("a"))[key("a")]
	require.EqualValues(t, 3, next.Revision)
	require.EqualValues(t, 2, *next.After)
	undo(key("new"))
	require.Zero(t, s.lock(t, ledger.Settlement{}, key("new"))[key("new")].Revision)
}

// settlesAlone settles each number of keys, one above all, while another transaction holds another key of the ledger. The
// ledger is not so small that a database reads all of it rather than look into an index.
func settlesAlone(t *testing.T, s suite) {
	if s.DB().Dialect().Name() == dialect.SQLite {
		t.Skip("SQLite has one writer at a time")
	}
	mine := []db.Key{key("1"), key("2"), key("3")}
	keys := append([]db.Key{key("other")}, mine...)
	for i := range 200 {
		keys = append(keys, key(fmt.Sprint("filler ", i)))
	}
	s.lock(t, ledger.Settlement{}, keys...)
	s.inTx(t, func(ctx context.Context, other bun.Tx) error {
		if _, err := s.Lock(ctx, other, created(key("other"))); err != nil {
			return err
		}
		for n := 1; n <= len(mine); n++ {
			for _, done := range []ledger.Settlement{
				{Deleted: mine[:n]}, {Restored: mine[:n]}, {Unsent: mine[:n]},
			} {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				err := s.DB().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
					if _, err := s.Lock(ctx, tx, created(mine[:n]...)); err != nil {
						return err
					}
					return s.Settle(ctx, tx, done)
				})
				cancel()
				require.NoError(t, err, "%d keys: %+v", n, done)
			}
		}
		return nil
	})
}

func keepsTracked(t *testing.T, s suite) {
	values := map[db.Key]json.RawMessage{
		key("a"): json.RawMessage(`{"name":"it's ünï\\u0000code"}`), key("b"): json.RawMessage(`{"n":9007199254740993}`),
	}
	locked := s.lock(t, ledger.Settlement{Tracked: values}, key("a"), key("b"), key("c"))
	require.Nil(t, locked[key("a")].Tracked)
	locked = s.lock(t, ledger.Settlement{}, key("a"), key("b"), key("c"))
	require.Equal(t, values[key("a")], locked[key("a")].Tracked)
	require.Equal(t, values[key("b")], locked[key("b")].Tracked)
	require.Nil(t, locked[key("c")].Tracked)
	require.EqualValues(t, 1, locked[key("a")].Revision, "storing values is no revision")
}

func locksMany(t *testing.T, s suite) {
	keys := make([]db.Key, 4500)
	for i := range keys {
		keys[i] = key(fmt.Sprint(i))
	}
	require.Len(t, s.lock(t, ledger.Settlement{}, keys...), len(keys))
	s.lock(t, ledger.Settlement{Deleted: keys}, keys...)
	for _, r := range s.lock(t, ledger.Settlement{}, keys...) {
		require.True(t, r.WasDeleted)
		require.EqualValues(t, 2, r.Revision)
	}
}

// locksExclude: what a transaction draws is its own until it commits, and keys in any order do not deadlock.
func locksExclude(t *testing.T, s suite) {
	const writers, rounds = 8, 25
	drawn := make([][]int64, writers)
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			keys := []db.Key{key("a"), key("b"), key("c")}
			for r := range rounds {
				keys[r%3], keys[w%3] = keys[w%3], keys[r%3]
				err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
					locked, err := s.Lock(ctx, tx, created(keys...))
					drawn[w] = append(drawn[w], locked[key("b")].Revision)
					return err
				})
				if err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	seen := map[int64]bool{}
	for _, revisions := range drawn {
		require.IsIncreasing(t, revisions)
		for _, r := range revisions {
			seen[r] = true
		}
	}
	require.Len(t, seen, writers*rounds, "every revision was drawn once")
}
