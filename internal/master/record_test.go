package master_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master"
	"github.com/cqrsync/cqrsync/internal/outgoing"
)

// recordCertain is Record of states that are not compared with rows.
func (s suite) recordCertain(
	ctx context.Context, tx bun.IDB, common outgoing.Message, entities []master.Entity, to *handover.Appended,
) error {
	recorded, err := s.Record(ctx, tx, common, entities, nil, to)
	if err == nil && !recorded {
		err = errors.New("certain states were not recorded")
	}
	return err
}

// record records entities of the given keys and returns what a relay is offered.
func (s suite) record(t *testing.T, common outgoing.Message, existed bool, keys ...string) handover.Offer {
	t.Helper()
	entities := make([]master.Entity, len(keys))
	for i, key := range keys {
		m := message(key, 0)
		entities[i] = master.Entity{Key: key, PK: m.PK, Data: m.Data, Existed: existed}
	}
	to := &handover.Appended{}
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error { return s.recordCertain(ctx, tx, common, entities, to) })
	return to.Offer(time.Time{})
}

func recordsFromOne(t *testing.T, s suite) {
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
		return s.recordCertain(ctx, tx, outgoing.Message{Model: "order", Signal: "SAVE"}, []master.Entity{
			{Key: "recorded", PK: json.RawMessage(`"recorded"`), Data: json.RawMessage(`{}`), Existed: true},
		}, nil)
	})
	s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
		return s.recordCertain(ctx, tx, outgoing.Message{Model: "order", Signal: "SAVE"}, []master.Entity{
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

func records(t *testing.T, s suite) {
	common := outgoing.Message{
		Model: "order", Signal: "SAVE", Meta: json.RawMessage(`{"who":"ann"}`), CorrelationID: "it's",
		Headers: map[string]string{"traceparent": "00-1-2-03"},
	}
	record := func(texts ...string) []outgoing.Message {
		entities := make([]master.Entity, len(texts))
		for i, text := range texts {
			m := message(text, 0)
			entities[i] = master.Entity{Key: m.Key, PK: m.PK, Data: m.Data}
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
	s.lock(t, ledger.Settlement{Deleted: []db.Key{key("a")}}, key("a"))
	again := record("a")[0]
	require.EqualValues(t, 3, again.Revision)
	require.EqualValues(t, 2, *again.After)
	require.False(t, s.lock(t, ledger.Settlement{}, key("a"))[key("a")].WasDeleted, "a recorded key is live")

	many := make([]string, 3000)
	for i := range many {
		many[i] = fmt.Sprint("many ", i)
	}
	require.Len(t, record(many...), len(many))
}

// recordsOne compares what the database says of a recorded entity with what a claim reads, whatever the session's time
// zone, and after the function was made anew.
func recordsOne(t *testing.T, s suite) {
	common := outgoing.Message{
		Model: "order", Signal: "SAVE", Meta: json.RawMessage(`{"who":"ann"}`), CorrelationID: "it's", Headers: map[string]string{"a": "b"},
	}
	zones := []string{"UTC", "Asia/Kolkata", "America/St_Johns"}
	onPostgres := s.DB().Dialect().Name() == dialect.PG
	record := func(set string) handover.Offer {
		m := message(`it's "ünï", \ ?`, 0)
		to := &handover.Appended{}
		s.inTx(t, func(ctx context.Context, tx bun.Tx) error {
			if onPostgres {
				_, err := tx.ExecContext(ctx, "SET LOCAL "+set)
				require.NoError(t, err)
			}
			return s.recordCertain(ctx, tx, common, []master.Entity{{Key: m.Key, PK: m.PK, Data: m.Data}}, to)
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
func (s suite) makeAnew(t *testing.T, function string) {
	t.Helper()
	var definition string
	require.NoError(t, s.DB().NewRaw("SELECT pg_get_functiondef(?::regproc)", function).Scan(t.Context(), &definition))
	_, err := s.DB().ExecContext(t.Context(), "DROP FUNCTION ?", bun.Ident(function))
	require.NoError(t, err)
	_, err = s.DB().DB.ExecContext(t.Context(), definition)
	require.NoError(t, err)
}
