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
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/outgoing"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/tables"
)

// Every database runs the one suite, and so does PostgreSQL with a bun.DB that knows nothing of its
// driver.

func TestWriter(t *testing.T) {
	dbtest.Everywhere(t, func(t *testing.T, open func(testing.TB) *bun.DB) {
		for name, test := range map[string]func(*testing.T, suite){
			"messages come out as they went in":           appendsWhole,
			"more messages than one statement takes":      appendsMany,
			"text that is not JSON is refused":            refusesNoJSON,
			"a row that was there before starts at 1":     recordsFromOne,
			"the same, prepared":                          prepared(recordsFromOne),
			"recording is locking and appending":          records,
			"recording, prepared":                         prepared(records),
			"one is recorded as it is claimed":            recordsOne,
			"one is recorded as it is claimed, prepared":  prepared(recordsOne),
			"what was appended can be handed over":        handsOver,
			"nothing is handed over past what was resent": handsNothingOverPastResent,
			"nothing past what was resent, prepared":      prepared(handsNothingOverPastResent),
			"nor past a dead letter that is tried again":  handsNothingOverPastARetry,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				d, err := db.New(open(t), db.Names{Prefix: "x_"})
				require.NoError(t, err)
				_, err = tables.New(d).Migrate(t.Context(), db.Outbox)
				require.NoError(t, err)
				test(t, suite{d, master.New(d), ledger.NewRevisions(d), queue.New(d)})
			})
		}
	})
}

// suite is a master's outbox, with the queue that shows what is in it.
type suite struct {
	*db.Database
	*master.Writer
	ledger *ledger.Revisions
	queue  *queue.Queue
}

// prepared runs a test with a statement that stays prepared, prepared twice as by two transactions at once.
func prepared(test func(*testing.T, suite)) func(*testing.T, suite) {
	return func(t *testing.T, s suite) {
		require.NoError(t, errors.Join(s.Prepare(t.Context(), nil), s.Prepare(t.Context(), nil)))
		test(t, s)
	}
}

func message(key string, revision int64) outgoing.Message {
	return outgoing.Message{
		Model: "order", Key: key, Revision: revision, Signal: "SAVE",
		PK: json.RawMessage(fmt.Sprintf("%q", key)), Data: json.RawMessage(`{"status":"new"}`), Updated: time.Now(),
	}
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
		if locked, err = s.ledger.Lock(ctx, tx, created(keys...)); err != nil {
			return err
		}
		return s.ledger.Settle(ctx, tx, done)
	})
	return locked
}

// created are changes of keys that are new with this transaction.
func created(keys ...db.Key) []ledger.Change {
	changes := make([]ledger.Change, len(keys))
	for i, k := range keys {
		changes[i].Key = k
	}
	return changes
}

func (s suite) unsent(t *testing.T) []outgoing.Message {
	t.Helper()
	messages, err := s.queue.Unsent(t.Context(), 0)
	require.NoError(t, err)
	return messages
}

func appendsWhole(t *testing.T, s suite) {
	after := int64(6)
	full := message("a", 7)
	full.After, full.Queue, full.CorrelationID = &after, "stats", "req-42"
	full.Updated = time.UnixMicro(1_700_000_000_123_456).UTC()
	full.Data = json.RawMessage(`{"id":"a","text":"it's a \\ back\u0000slash ü ?","n":9007199254740993}`)
	full.Previous, full.Meta = json.RawMessage(`{"n":1}`), json.RawMessage(`{"who":"ann"}`)
	full.Headers = map[string]string{"traceparent": "00-1-2-03"}
	full.Expires = time.UnixMicro(1_800_000_000_000_001).UTC()
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.Append(ctx, tx, []outgoing.Message{full}, nil) })
	read := s.unsent(t)
	require.Len(t, read, 1)
	require.NotZero(t, read[0].ID)
	full.ID, full.Lane, full.Created = read[0].ID, read[0].Lane, read[0].Created
	require.Equal(t, full, read[0])
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.Append(ctx, tx, nil, nil) })
}

func appendsMany(t *testing.T, s suite) {
	messages := make([]outgoing.Message, 3000)
	for i := range messages {
		messages[i] = message(fmt.Sprint(i), 0)
		messages[i].Data = json.RawMessage(`{"text":"` + strings.Repeat("it's ", 200) + `"}`)
	}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.Append(ctx, tx, messages, nil) })
	require.Len(t, s.unsent(t), len(messages))
}

func refusesNoJSON(t *testing.T, s suite) {
	bad := message("a", 0)
	bad.Data = json.RawMessage(`{"id":`)
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		return s.Append(ctx, tx, []outgoing.Message{message("b", 0), bad}, nil)
	})
	require.Error(t, err)
	require.Empty(t, s.unsent(t))
}
