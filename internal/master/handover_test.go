package master_test

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

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/outgoing"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// write locks keys, settles them and appends a message for each, and returns what a relay is offered.
func (s suite) write(t *testing.T, done ledger.Settlement, messages ...outgoing.Message) handover.Offer {
	t.Helper()
	to := &handover.Appended{}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
		var keys []db.Key
		for _, m := range messages {
			keys = append(keys, db.Key{Model: m.Model, Key: m.Key})
		}
		revisions, err := s.ledger.Lock(ctx, tx, created(keys...))
		for i := range messages {
			r := revisions[keys[i]]
			messages[i].Revision, messages[i].After, messages[i].Follows, messages[i].Updated = r.Revision, r.After, r.Follows, r.Updated
		}
		return errors.Join(err, s.ledger.Settle(ctx, tx, done), s.Append(ctx, tx, messages, to))
	})
	return to.Offer(time.Time{})
}

// requireClaimed compares an offer with what a claim of its messages brings.
func (s suite) requireClaimed(t *testing.T, o handover.Offer) {
	t.Helper()
	claimed, _, err := s.queue.Claim(t.Context(), everything(), 10_000, queue.Except{})
	require.NoError(t, err)
	byID := map[int64]outgoing.Message{}
	for _, m := range claimed {
		byID[m.ID] = m.Message
	}
	for _, m := range o.Messages {
		m.Follows = false
		require.Equal(t, byID[m.ID], m)
	}
}

func handsOver(t *testing.T, s suite) {
	common := outgoing.Message{
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
		o = s.write(t, ledger.Settlement{}, full, message("e", 0))
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
	o = s.write(t, ledger.Settlement{}, message("small", 0), large)
	require.Len(t, o.Messages, 1)
	require.True(t, o.Rest)
	s.requireClaimed(t, o)
}

func handsNothingOverPastResent(t *testing.T, s suite) {
	common := outgoing.Message{Model: "order", Signal: "SAVE"}
	ways := map[string]func(t *testing.T) handover.Offer{
		"recorded": func(t *testing.T) handover.Offer { return s.record(t, common, true, "1") },
		"appended": func(t *testing.T) handover.Offer { return s.write(t, ledger.Settlement{}, message("1", 0)) },
	}
	require.Empty(t, s.record(t, common, true, "1").Messages, "what was there before cqrsync may have been synced")
	for name, write := range ways {
		require.Len(t, write(t).Messages, 1, name)
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			return s.ledger.NoteResent(ctx, tx, "order", []string{"0", "1"})
		})
		o := write(t)
		require.Empty(t, o.Messages, name)
		require.True(t, o.Rest, name)
		require.Len(t, write(t).Messages, 1, "the one after it: %s", name)

		s.lock(t, ledger.Settlement{Unsent: []db.Key{key("1")}}, key("1"))
		require.Len(t, write(t).Messages, 1, name)
	}
	s.lock(t, ledger.Settlement{Deleted: []db.Key{key("1")}}, key("1"))
	require.Len(t, s.record(t, common, false, "1").Messages, 1, "it follows the one that deleted it")
}

func handsNothingOverPastARetry(t *testing.T, s suite) {
	common := outgoing.Message{Model: "order", Signal: "SAVE"}
	letter := s.record(t, common, false, "1").Messages[0]
	owned, err := s.queue.Balance(t.Context(), "relay", time.Minute)
	require.NoError(t, err)
	dead := queue.Outcome{Dead: []queue.Failure{{Claimed: &queue.Claimed{Message: letter}, Error: "too large"}}}
	require.NoError(t, s.queue.Finish(t.Context(), "relay", owned.Lanes, dead))
	require.NoError(t, s.queue.RetryDeadLetter(t.Context(), letter.ID))
	require.Empty(t, s.record(t, common, false, "1").Messages)
	require.Len(t, s.record(t, common, false, "1").Messages, 1, "the one after it")
}

// everything is a claim's start in each of the 64 lanes.
func everything() []queue.Start {
	starts := make([]queue.Start, 64)
	for i := range starts {
		starts[i].Lane = i
	}
	return starts
}
