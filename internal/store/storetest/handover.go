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

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/store"
)

// recordCertain is Record of states that are not compared with rows.
func (s outboxSuite) recordCertain(
	ctx context.Context, tx bun.IDB, common store.Message, entities []store.Entity, to *store.Appended,
) error {
	recorded, err := s.Record(ctx, tx, common, entities, nil, to)
	if err == nil && !recorded {
		err = errors.New("certain states were not recorded")
	}
	return err
}

// record records entities of the given keys and returns what a relay is offered.
func (s outboxSuite) record(t *testing.T, common store.Message, existed bool, keys ...string) store.Offer {
	t.Helper()
	entities := make([]store.Entity, len(keys))
	for i, key := range keys {
		m := message(key, 0)
		entities[i] = store.Entity{Key: key, PK: m.PK, Data: m.Data, Existed: existed}
	}
	to := &store.Appended{}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.recordCertain(ctx, tx, common, entities, to) })
	return to.Offer(time.Time{})
}

// write locks keys, settles them and appends a message for each, and returns what a relay is offered.
func (s outboxSuite) write(t *testing.T, done store.Settlement, messages ...store.Message) store.Offer {
	t.Helper()
	to := &store.Appended{}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
		var keys []store.Key
		for _, m := range messages {
			keys = append(keys, store.Key{Model: m.Model, Key: m.Key})
		}
		revisions, err := s.Lock(ctx, tx, created(keys...))
		for i := range messages {
			r := revisions[keys[i]]
			messages[i].Revision, messages[i].After, messages[i].Follows, messages[i].Updated = r.Revision, r.After, r.Follows, r.Updated
		}
		return errors.Join(err, s.Settle(ctx, tx, done), s.Append(ctx, tx, messages, to))
	})
	return to.Offer(time.Time{})
}

// requireClaimed compares an offer with what a claim of its messages brings.
func (s outboxSuite) requireClaimed(t *testing.T, o store.Offer) {
	t.Helper()
	claimed, _, err := s.Claim(t.Context(), allLanes(), 10_000, 2, queue.Except{})
	require.NoError(t, err)
	byID := map[int64]store.Message{}
	for _, m := range claimed {
		byID[m.ID] = m.Message
	}
	for _, m := range o.Messages {
		m.Follows = false
		require.Equal(t, byID[m.ID], m)
	}
}

func handsOver(t *testing.T, s outboxSuite) {
	common := store.Message{
		Model: "order", Signal: "SAVE", Meta: json.RawMessage(`{"who":"ann"}`), CorrelationID: "it's", Headers: map[string]string{"a": "b"},
	}
	for range 2 { // the first revision and the next
		o := s.record(t, common, false, "b", "a", "c")
		require.Len(t, o.Messages, 3)
		require.False(t, o.Rest)
		s.requireClaimed(t, o)

		full := message("d", 0)
		full.Previous, full.Meta, full.Headers = json.RawMessage(`{"status":"old"}`), common.Meta, common.Headers
		full.Expires, full.Keep = time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond), true
		o = s.write(t, store.Settlement{}, full, message("e", 0))
		require.Len(t, o.Messages, 2)
		require.False(t, o.Rest)
		s.requireClaimed(t, o)
	}

	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprint("many ", i)
	}
	o := s.record(t, common, false, many...)
	require.Empty(t, o.Messages, "they would fill the memory")
	require.True(t, o.Rest)
	large := message("large", 0)
	large.Data = json.RawMessage(`{"text":"` + strings.Repeat("x", 1<<20) + `"}`)
	o = s.write(t, store.Settlement{}, message("small", 0), large)
	require.Len(t, o.Messages, 1)
	require.True(t, o.Rest)
	s.requireClaimed(t, o)
}

// recordsOne compares what the database says of a recorded entity with what a claim reads, whatever the session's time
// zone, and after the function was made anew.
func recordsOne(t *testing.T, s outboxSuite) {
	common := store.Message{
		Model: "order", Signal: "SAVE", Meta: json.RawMessage(`{"who":"ann"}`), CorrelationID: "it's", Headers: map[string]string{"a": "b"},
	}
	zones := []string{"UTC", "Asia/Kolkata", "America/St_Johns"}
	onPostgres := s.DB().Dialect().Name() == dialect.PG
	record := func(set string) store.Offer {
		m := message(`it's "ünï", \ ?`, 0)
		to := &store.Appended{}
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			if onPostgres {
				_, err := tx.ExecContext(ctx, "SET LOCAL "+set)
				require.NoError(t, err)
			}
			return s.recordCertain(ctx, tx, common, []store.Entity{{Key: m.Key, PK: m.PK, Data: m.Data}}, to)
		})
		return to.Offer(time.Time{})
	}
	for revision, zone := range zones {
		o := record("TIME ZONE '" + zone + "'")
		require.Len(t, o.Messages, 1)
		require.EqualValues(t, revision, o.Messages[0].Revision)
		s.requireClaimed(t, o)
		if onPostgres {
			s.makeAnew(t, "x_outbox_record")
		}
	}
	if onPostgres {
		o := record("DateStyle TO 'German'")
		require.Empty(t, o.Messages)
		require.True(t, o.Rest, "the relay is to read what cannot be read here")
		require.Len(t, s.unsent(t), len(zones)+1)
	}
}

// makeAnew drops a function and makes it again, as an upgrade does.
func (s outboxSuite) makeAnew(t *testing.T, function string) {
	t.Helper()
	var definition string
	require.NoError(t, s.DB().NewRaw("SELECT pg_get_functiondef(?::regproc)", function).Scan(t.Context(), &definition))
	_, err := s.DB().ExecContext(t.Context(), "DROP FUNCTION ?", bun.Ident(function))
	require.NoError(t, err)
	_, err = s.DB().DB.ExecContext(t.Context(), definition)
	require.NoError(t, err)
}

func handsNothingOverPastResent(t *testing.T, s outboxSuite) {
	common := store.Message{Model: "order", Signal: "SAVE"}
	ways := map[string]func(t *testing.T) store.Offer{
		"recorded": func(t *testing.T) store.Offer { return s.record(t, common, true, "1") },
		"appended": func(t *testing.T) store.Offer { return s.write(t, store.Settlement{}, message("1", 0)) },
	}
	require.Empty(t, s.record(t, common, true, "1").Messages, "what was there before cqrsync may have been synced")
	for name, write := range ways {
		require.Len(t, write(t).Messages, 1, name)
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.NoteResent(ctx, tx, "order", []string{"0", "1"}) })
		o := write(t)
		require.Empty(t, o.Messages, name)
		require.True(t, o.Rest, name)
		require.Len(t, write(t).Messages, 1, "the one after it: %s", name)

		s.lock(t, store.Settlement{Unsent: []store.Key{key("1")}}, key("1"))
		require.Len(t, write(t).Messages, 1, name)
	}
	s.lock(t, store.Settlement{Deleted: []store.Key{key("1")}}, key("1"))
	require.Len(t, s.record(t, common, false, "1").Messages, 1, "it follows the one that deleted it")
}

func handsNothingOverPastARetry(t *testing.T, s outboxSuite) {
	common := store.Message{Model: "order", Signal: "SAVE"}
	letter := s.record(t, common, false, "1").Messages[0]
	owned, err := s.Balance(t.Context(), "relay", ttl)
	require.NoError(t, err)
	dead := queue.Outcome{Dead: []queue.Failure{{Claimed: &queue.Claimed{Message: letter}, Error: "too large"}}}
	require.NoError(t, s.Finish(t.Context(), "relay", owned.Lanes, dead))
	require.NoError(t, s.RetryDeadLetter(t.Context(), letter.ID))
	require.Empty(t, s.record(t, common, false, "1").Messages)
	require.Len(t, s.record(t, common, false, "1").Messages, 1, "the one after it")
}
