package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"
	"golang.org/x/sync/errgroup"

	"github.com/cqrsync/cqrsync/internal/store"
)

// Outbox exercises the master's ledger and the appending of messages on one database kind.
func Outbox(t *testing.T, open func(testing.TB) *bun.DB) {
	for name, test := range map[string]func(*testing.T, outboxSuite){
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
		"messages come out as they went in":            appendsWhole,
		"more messages than one statement takes":       appendsMany,
		"text that is not JSON is refused":             refusesNoJSON,
		"recording is locking and appending":           records,
		"recording, prepared":                          prepared(records),
		"one is recorded as it is claimed":             recordsOne,
		"one is recorded as it is claimed, prepared":   prepared(recordsOne),
		"a row that was there before, prepared":        prepared(startsAtOne),
		"what was appended can be handed over":         handsOver,
		"nothing is handed over past what was resent":  handsNothingOverPastResent,
		"nothing past what was resent, prepared":       prepared(handsNothingOverPastResent),
		"nor past a dead letter that is tried again":   handsNothingOverPastARetry,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			s, err := store.New(db, store.Names{Prefix: "x_"})
			require.NoError(t, err)
			_, err = s.Migrate(t.Context(), store.Outbox)
			require.NoError(t, err)
			test(t, outboxSuite{s})
		})
	}
}

type outboxSuite struct{ *store.Store }

// prepared runs a test with a statement that stays prepared, prepared twice as by two transactions at once.
func prepared(test func(*testing.T, outboxSuite)) func(*testing.T, outboxSuite) {
	return func(t *testing.T, s outboxSuite) {
		require.NoError(t, errors.Join(s.Prepare(t.Context(), nil), s.Prepare(t.Context(), nil)))
		test(t, s)
	}
}

// created are changes of keys that are new with this transaction.
func created(keys ...store.Key) []store.Change {
	changes := make([]store.Change, len(keys))
	for i, k := range keys {
		changes[i].Key = k
	}
	return changes
}

func key(text string) store.Key { return store.Key{Model: "order", Key: text} }

// inTx commits what fn does.
func (s outboxSuite) inTx(t *testing.T, fn func(ctx context.Context, tx bun.Tx) error) {
	t.Helper()
	require.NoError(t, s.DB().RunInTx(t.Context(), nil, fn))
}

// settlesAlone settles each number of keys, one above all, while another transaction holds another key of the ledger. The
// ledger is not so small that a database reads all of it rather than look into an index.
func settlesAlone(t *testing.T, s outboxSuite) {
	if s.DB().Dialect().Name() == dialect.SQLite {
		t.Skip("SQLite has one writer at a time")
	}
	mine := []store.Key{key("1"), key("2"), key("3")}
	keys := append([]store.Key{key("other")}, mine...)
	for i := range 200 {
		keys = append(keys, key(fmt.Sprint("filler ", i)))
	}
	s.lock(t, store.Settlement{}, keys...)
	s.inTx(t, func(ctx context.Context, other bun.Tx) error {
		if _, err := s.Lock(ctx, other, created(key("other"))); err != nil {
			return err
		}
		for n := 1; n <= len(mine); n++ {
			for _, done := range []store.Settlement{
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

// lock commits one Lock and Settle.
func (s outboxSuite) lock(t *testing.T, done store.Settlement, keys ...store.Key) (locked map[store.Key]store.Revision) {
	t.Helper()
	s.inTx(t, func(ctx context.Context, tx bun.Tx) (err error) {
		if locked, err = s.Lock(ctx, tx, created(keys...)); err != nil {
			return err
		}
		return s.Settle(ctx, tx, done)
	})
	return locked
}

func countsRevisions(t *testing.T, s outboxSuite) {
	for want := range int64(3) {
		locked := s.lock(t, store.Settlement{}, key("b"), key("a"))
		require.Len(t, locked, 2)
		require.Equal(t, want, locked[key("a")].Revision)
		require.Equal(t, want, locked[key("b")].Revision)
	}
	require.Zero(t, s.lock(t, store.Settlement{}, store.Key{Model: "customer", Key: "a"})[store.Key{Model: "customer", Key: "a"}].Revision)
}

func startsAtOne(t *testing.T, s outboxSuite) {
	for want := range int64(3) {
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			locked, err := s.Lock(ctx, tx, []store.Change{{Key: key("old"), Existed: true}, {Key: key("new")}})
			require.Equal(t, want+1, locked[key("old")].Revision)
			require.Equal(t, want, locked[key("new")].Revision)
			require.Equal(t, want > 0, locked[key("old")].After != nil)
			return err
		})
	}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
		return s.recordCertain(ctx, tx, store.Message{Model: "order", Signal: "SAVE"}, []store.Entity{
			{Key: "recorded", PK: json.RawMessage(`"recorded"`), Data: json.RawMessage(`{}`), Existed: true},
		}, nil)
	})
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
		return s.recordCertain(ctx, tx, store.Message{Model: "order", Signal: "SAVE"}, []store.Entity{
			{Key: "recorded too", PK: json.RawMessage(`1`), Data: json.RawMessage(`{}`), Existed: true},
			{Key: "recorded new", PK: json.RawMessage(`2`), Data: json.RawMessage(`{}`)},
		}, nil)
	})
	revisions := map[string]int64{}
	for _, m := range s.unsent(t) {
		require.Nil(t, m.After)
		revisions[m.Key] = m.Revision
	}
	require.Equal(t, map[string]int64{"recorded": 1, "recorded too": 1, "recorded new": 0}, revisions)
}

func remembersSent(t *testing.T, s outboxSuite) {
	require.Nil(t, s.lock(t, store.Settlement{}, key("a"))[key("a")].After)
	require.EqualValues(t, 0, *s.lock(t, store.Settlement{Unsent: []store.Key{key("a")}}, key("a"))[key("a")].After)
	require.EqualValues(t, 0, *s.lock(t, store.Settlement{}, key("a"))[key("a")].After, "revision 1 was not sent")
	require.EqualValues(t, 2, *s.lock(t, store.Settlement{}, key("a"))[key("a")].After)
}

func updatedGrows(t *testing.T, s outboxSuite) {
	var last time.Time
	for range 20 {
		now := s.lock(t, store.Settlement{}, key("a"))[key("a")].Updated
		require.True(t, now.After(last), "%s after %s", now, last)
		last = now
	}
	require.WithinDuration(t, time.Now(), last, time.Minute)
}

func rollsBackRevisions(t *testing.T, s outboxSuite) {
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := s.Lock(ctx, tx, created(key("a"))); err != nil {
			return err
		}
		return context.Canceled
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Zero(t, s.lock(t, store.Settlement{}, key("a"))[key("a")].Revision)
}

func settlesKeys(t *testing.T, s outboxSuite) {
	s.lock(t, store.Settlement{Deleted: []store.Key{key("a")}}, key("a"))
	again := s.lock(t, store.Settlement{Restored: []store.Key{key("a")}}, key("a"))[key("a")]
	require.True(t, again.WasDeleted)
	require.EqualValues(t, 1, again.Revision)
	live := s.lock(t, store.Settlement{}, key("a"))[key("a")]
	require.False(t, live.WasDeleted)

	undo := func(k store.Key) {
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			locked, err := s.Lock(ctx, tx, created(k))
			if err != nil {
				return err
			}
			return s.Settle(ctx, tx, store.Settlement{Unchanged: []store.Revision{locked[k]}})
		})
	}
	undo(key("a"))
	next := s.lock(t, store.Settlement{}, key("a"))[key("a")]
	require.EqualValues(t, 3, next.Revision)
	require.EqualValues(t, 2, *next.After)
	undo(key("new"))
	require.Zero(t, s.lock(t, store.Settlement{}, key("new"))[key("new")].Revision)
}

func keepsTracked(t *testing.T, s outboxSuite) {
	values := map[store.Key]json.RawMessage{
		key("a"): json.RawMessage(`{"name":"it's ünï\\u0000code"}`), key("b"): json.RawMessage(`{"n":9007199254740993}`),
	}
	locked := s.lock(t, store.Settlement{Tracked: values}, key("a"), key("b"), key("c"))
	require.Nil(t, locked[key("a")].Tracked)
	locked = s.lock(t, store.Settlement{}, key("a"), key("b"), key("c"))
	require.Equal(t, values[key("a")], locked[key("a")].Tracked)
	require.Equal(t, values[key("b")], locked[key("b")].Tracked)
	require.Nil(t, locked[key("c")].Tracked)
	require.EqualValues(t, 1, locked[key("a")].Revision, "storing values is no revision")
}

func locksMany(t *testing.T, s outboxSuite) {
	keys := make([]store.Key, 4500)
	for i := range keys {
		keys[i] = key(fmt.Sprint(i))
	}
	require.Len(t, s.lock(t, store.Settlement{}, keys...), len(keys))
	s.lock(t, store.Settlement{Deleted: keys}, keys...)
	for _, r := range s.lock(t, store.Settlement{}, keys...) {
		require.True(t, r.WasDeleted)
		require.EqualValues(t, 2, r.Revision)
	}
}

// locksExclude: what a transaction draws is its own until it commits, and keys in any order do not deadlock.
func locksExclude(t *testing.T, s outboxSuite) {
	const writers, rounds = 8, 25
	drawn := make([][]int64, writers)
	var group errgroup.Group
	for w := range writers {
		group.Go(func() error {
			keys := []store.Key{key("a"), key("b"), key("c")}
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

func (s outboxSuite) unsent(t *testing.T) []store.Message {
	t.Helper()
	messages, err := s.Unsent(t.Context(), 0)
	require.NoError(t, err)
	return messages
}

func appendsWhole(t *testing.T, s outboxSuite) {
	after := int64(6)
	full := message("a", 7)
	full.After, full.Queue, full.CorrelationID = &after, "stats", "req-42"
	full.Updated = time.UnixMicro(1_700_000_000_123_456).UTC()
	full.Data = json.RawMessage(`{"id":"a","text":"it's a \\ back\u0000slash ü ?","n":9007199254740993}`)
	full.Previous, full.Meta = json.RawMessage(`{"n":1}`), json.RawMessage(`{"who":"ann"}`)
	full.Headers = map[string]string{"traceparent": "00-1-2-03"}
	full.Expires = time.UnixMicro(1_800_000_000_000_001).UTC()
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.Append(ctx, tx, []store.Message{full}, nil) })
	read := s.unsent(t)
	require.Len(t, read, 1)
	require.NotZero(t, read[0].ID)
	full.ID, full.Lane, full.Created = read[0].ID, read[0].Lane, read[0].Created
	require.Equal(t, full, read[0])
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.Append(ctx, tx, nil, nil) })
}

func appendsMany(t *testing.T, s outboxSuite) {
	messages := make([]store.Message, 3000)
	for i := range messages {
		messages[i] = message(fmt.Sprint(i), 0)
		messages[i].Data = json.RawMessage(`{"text":"` + strings.Repeat("it's ", 200) + `"}`)
	}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.Append(ctx, tx, messages, nil) })
	require.Len(t, s.unsent(t), len(messages))
}

func refusesNoJSON(t *testing.T, s outboxSuite) {
	bad := message("a", 0)
	bad.Data = json.RawMessage(`{"id":`)
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		return s.Append(ctx, tx, []store.Message{message("b", 0), bad}, nil)
	})
	require.Error(t, err)
	require.Empty(t, s.unsent(t))
}

func records(t *testing.T, s outboxSuite) {
	common := store.Message{
		Model: "order", Signal: "SAVE", Meta: json.RawMessage(`{"who":"ann"}`), CorrelationID: "it's",
		Headers: map[string]string{"traceparent": "00-1-2-03"},
	}
	record := func(texts ...string) []store.Message {
		entities := make([]store.Entity, len(texts))
		for i, text := range texts {
			m := message(text, 0)
			entities[i] = store.Entity{Key: m.Key, PK: m.PK, Data: m.Data}
		}
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.recordCertain(ctx, tx, common, entities, nil) })
		all := s.unsent(t)
		return all[len(all)-len(texts):]
	}
	for revision, after := range []*int64{nil, new(int64)} {
		for i, m := range record("b", "a", "c") {
			want := common
			want.Key = string(rune('a' + i))
			want.PK, want.Data, want.Revision, want.After = message(want.Key, 0).PK, message(want.Key, 0).Data, int64(revision), after
			want.ID, want.Lane, want.Updated, want.Created = m.ID, m.Lane, m.Updated, m.Created
			require.Equal(t, want, m)
			require.WithinDuration(t, time.Now(), m.Updated, time.Minute)
		}
	}
	s.lock(t, store.Settlement{Deleted: []store.Key{key("a")}}, key("a"))
	again := record("a")[0]
	require.EqualValues(t, 3, again.Revision)
	require.EqualValues(t, 2, *again.After)
	require.False(t, s.lock(t, store.Settlement{}, key("a"))[key("a")].WasDeleted, "a recorded key is live")

	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprint("many ", i)
	}
	require.Len(t, record(many...), len(many))
}
