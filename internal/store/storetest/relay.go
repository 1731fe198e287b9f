// Package storetest is the conformance suite of package store: what every database must do, whatever its SQL.
//
// Test packages only.
package storetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/store"
)

// Relay exercises what only a database can show, of lanes, claims, retries and dead letters.
func Relay(t *testing.T, open func(testing.TB) *bun.DB) {
	Queue(t, func(t testing.TB) Subject { return inSQL(t, open(t)) })
	for name, test := range map[string]func(*testing.T, *relaySuite){
		"a renewal tells what is free":                        tellsWhatIsFree,
		"a row that is no message says so":                    saysWhatIsInvalid,
		"who writes elsewhere is no writer":                   listsNoOtherWriters,
		"a compaction that others disturb changes nothing":    compactsNothingChanged,
		"only what was read is superseded":                    supersedesOnlyWhatWasRead,
		"a message that moves is removed":                     removesWhatMoves,
		"a waiting key is left out, others are not":           leavesOutWaitingKeys,
		"a dead letter is the whole message":                  buriesWhole,
		"an error text with anything in it is stored":         storesAnyErrorText,
		"a lease that ends too late is watched, and ended":    endsLeasesAhead,
		"a lease that is renewed goes on, whatever the clock": keepsLeasesThatAreRenewed,
		"lanes are not changed beside another protocol":       refusesOtherProtocols,
		"progress looks at lanes that nobody owns":            seesAllLanes,
		"a dead letter goes back whole, behind its key":       putsBackWhole,
		"a superseded dead letter stays":                      keepsSuperseded,
		"a dead letter of a deleted key stays":                keepsDeleted,
		"a retry waits for a writer of its key":               retryWaitsForWriters,
		"dead letters are chosen, paged and purged":           listsAndPurges,
		"deleted keys are forgotten on request":               forgetsDeletedKeys,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := inSQL(t, open(t))
			test(t, &relaySuite{&queueSuite{s}, s.Queue.(*store.Store)})
		})
	}
}

type relaySuite struct {
	*queueSuite
	*store.Store
}

const (
	ttl   = time.Minute
	blink = -time.Second // a lease that has run out already
	lanes = 64
)

func allLanes() []queue.Start {
	all := make([]queue.Start, lanes)
	for i := range all {
		all[i].Lane = i
	}
	return all
}

func message(key string, revision int64) store.Message {
	return store.Message{
		Model: "order", Key: key, Revision: revision, Signal: "SAVE",
		PK: json.RawMessage(fmt.Sprintf("%q", key)), Data: json.RawMessage(`{"status":"new"}`), Updated: time.Now(),
	}
}

// kept is a message that no newer one replaces.
func kept(key string, revision int64) store.Message {
	m := message(key, revision)
	m.Keep = true
	return m
}

func claimsWholeMessages(t *testing.T, s *queueSuite) {
	after := int64(4)
	updated := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	full := store.Message{
		Model: "order", Key: `["a'?",1]`, Revision: 7, After: &after, Signal: "SAVE", Queue: "webhooks",
		PK: json.RawMessage(`["a'?",1]`), Data: json.RawMessage(`{"n":12345678901234567890.10,"s":"é ' \" ?"}`),
		Previous: json.RawMessage(`{"n":1}`), Meta: json.RawMessage(`{"m":[]}`),
		Headers: map[string]string{"traceparent": "00-ab-cd-01"}, CorrelationID: "c-1",
		Updated: updated, Expires: updated.Add(24 * time.Hour), Keep: true,
	}
	bare := message("1", 0)
	bare.Updated = updated
	s.append(t, full, bare)
	got := map[string]store.Message{}
	for _, m := range s.claim(t) {
		require.NotZero(t, m.ID)
		require.NoError(t, m.Invalid)
		require.Zero(t, m.Attempts)
		key := m.Key
		require.WithinDuration(t, time.Now(), m.Created, time.Minute)
		m.ID, m.Lane, m.Created = 0, 0, time.Time{}
		got[key] = m.Message
	}
	require.Equal(t, map[string]store.Message{full.Key: full, bare.Key: bare}, got)
}

func claimsInOrder(t *testing.T, s *queueSuite) {
	for revision := range int64(3) {
		for key := range 50 {
			s.append(t, message(fmt.Sprint(key), revision))
		}
	}
	all := s.claim(t)
	require.Len(t, all, 150)
	for i, m := range all[1:] {
		previous := all[i]
		require.True(t, previous.Lane < m.Lane || previous.Lane == m.Lane && previous.ID < m.ID)
	}
	first, unread, err := s.Claim(t.Context(), allLanes(), 2, 2, queue.Except{})
	require.NoError(t, err)
	require.Empty(t, unread)
	var want []*queue.Claimed
	perLane := map[int]int{}
	for _, m := range all {
		if perLane[m.Lane]++; perLane[m.Lane] <= 2 {
			want = append(want, m)
		}
	}
	require.Equal(t, want, first)

	one, _, err := s.Claim(t.Context(), []queue.Start{{Lane: all[0].Lane}}, 1000, 2, queue.Except{})
	require.NoError(t, err)
	require.Len(t, one, perLane[all[0].Lane])
	for _, m := range one {
		require.Equal(t, all[0].Lane, m.Lane)
	}
	rest, _, err := s.Claim(t.Context(), []queue.Start{{Lane: all[0].Lane, After: all[0].ID}}, 1000, 2, queue.Except{})
	require.NoError(t, err)
	require.Equal(t, one[1:], rest)
	last := all[len(all)-1].Lane
	turned, _, err := s.Claim(t.Context(), []queue.Start{{Lane: last}, {Lane: all[0].Lane}}, 1, 2, queue.Except{})
	require.NoError(t, err)
	require.Equal(t, []int{last, all[0].Lane}, []int{turned[0].Lane, turned[1].Lane}, "lanes come as they are listed")
	some, _, err := s.Claim(t.Context(), []queue.Start{{Lane: all[0].Lane}}, 1, 2, queue.Except{
		IDs: []int64{one[0].ID, 12345}, Keys: []store.Key{{Model: "order", Key: one[1].Key}, {Model: "other", Key: one[0].Key}},
	})
	require.NoError(t, err)
	for _, m := range some {
		require.NotEqual(t, one[0].ID, m.ID)
		require.NotEqual(t, one[1].Key, m.Key)
	}
	none, _, err := s.Claim(t.Context(), nil, 10, 2, queue.Except{})
	require.NoError(t, err)
	require.Empty(t, none)
}

func removesWhatWasHandedOver(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	messages := make([]store.Message, 40)
	for i := range messages {
		messages[i] = message(fmt.Sprint(i), 0)
		messages[i].Follows = true
	}
	w := s.Begin(t)
	offered := w.Append(t, messages)
	w.Commit(t)
	require.Len(t, offered, len(messages))
	s.finish(t, "a", owned, queue.Outcome{Sent: offered[:15]})
	s.finish(t, "b", owned, queue.Outcome{Sent: offered[15:]}) // who does not own the lanes
	var left []string
	for _, m := range s.claim(t) {
		left = append(left, m.Key)
	}
	var want []string
	for _, m := range messages[15:] {
		want = append(want, m.Key)
	}
	require.ElementsMatch(t, want, left)
}

func claimsBoundedBytes(t *testing.T, s *queueSuite) {
	large := message("1", 0)
	large.Data = json.RawMessage(`{"s":"` + strings.Repeat("x", 3<<19) + `"}`)
	for large.Revision < 4 {
		s.append(t, large)
		large.Revision++
	}
	claimed, unread, err := s.Claim(t.Context(), allLanes(), 100, 2, queue.Except{})
	require.NoError(t, err)
	require.Len(t, claimed, 3)
	require.Equal(t, claimed[0].Lane, unread[0])

	for key := range 8 {
		large.Key, large.Revision = fmt.Sprint("k", key), 0
		s.append(t, large)
	}
	claimed, unread, err = s.Claim(t.Context(), allLanes(), 100, 2, queue.Except{})
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(claimed), 3)
	require.LessOrEqual(t, len(claimed), 4, "one more for a second connection")
	known := queue.Except{}
	for more := claimed; len(more) > 0; {
		for _, m := range more {
			known.IDs = append(known.IDs, m.ID)
		}
		more, _, err = s.Claim(t.Context(), allLanes(), 100, 2, known)
		require.NoError(t, err)
		for _, m := range more {
			require.Contains(t, unread, m.Lane, "of message %d nothing was said", m.ID)
		}
	}
	require.Len(t, known.IDs, 12)
	require.NotEmpty(t, s.claim(t), "the connection is in order")
}

func findsLateCommits(t *testing.T, s *queueSuite) {
	if s.OneWriter {
		t.Skip("one writer: nothing can commit late")
	}
	w := s.Begin(t)
	w.Append(t, []store.Message{message("early", 0)})
	s.append(t, message("late", 0))
	owned := s.balance(t, "a", ttl)
	claimed := s.claim(t)
	require.Len(t, claimed, 1)
	s.finish(t, "a", owned, queue.Outcome{Sent: claimed})

	w.Commit(t)
	rest := s.claim(t)
	require.Len(t, rest, 1)
	require.Less(t, rest[0].ID, claimed[0].ID)
}

func saysWhatIsInvalid(t *testing.T, s *relaySuite) {
	s.append(t, message("bad", 0), message("good", 0))
	s.exec(t, `UPDATE outbox_messages SET headers = '["not","an","object"]' WHERE ? = 'bad'`, bun.Ident("key"))
	for _, m := range s.claim(t) {
		if m.Key == "bad" {
			require.ErrorContains(t, m.Invalid, "headers of outbox message")
		} else {
			require.NoError(t, m.Invalid)
		}
	}
}

func leavesOutWaitingKeys(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, kept("bad", 0), kept("bad", 1), message("good", 0))
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(only(s.claim(t), "bad", 0), time.Hour)})
	require.Equal(t, []string{"good/0"}, names(s.claim(t)))
	require.Equal(t, int64(1), s.status(t).Retries)

	s.exec(t, "UPDATE outbox_retries SET next_attempt_at = (SELECT min(created_at) FROM outbox_messages)") // its time has come
	claimed := s.claim(t)
	require.ElementsMatch(t, []string{"bad/0", "bad/1", "good/0"}, names(claimed))
	bad := only(claimed, "bad", 0)
	require.Equal(t, 1, bad[0].Attempts)

	s.finish(t, "a", owned, queue.Outcome{Failed: failures(bad, blink)})
	require.Equal(t, 2, only(s.claim(t), "bad", 0)[0].Attempts)
}

func sparesAttempts(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0), kept("2", 0))
	spared := failures(s.claim(t), blink)
	for i := range spared {
		spared[i].Spared = true
	}
	for range 3 {
		s.finish(t, "a", owned, queue.Outcome{Failed: spared})
		require.Equal(t, int64(2), s.status(t).Retries)
		claimed := s.claim(t)
		require.Len(t, claimed, 2)
		for _, m := range claimed {
			require.Zero(t, m.Attempts)
			require.True(t, m.Failed)
		}
	}
	spared[0].Wait, spared[1].Wait = time.Hour, time.Hour
	s.finish(t, "a", owned, queue.Outcome{Failed: spared})
	require.Empty(t, s.claim(t), "they wait all the same")
	s.append(t, message("1", 1))
	claimed := s.claim(t)
	require.Equal(t, []string{"1/1"}, names(claimed))
	require.True(t, claimed[0].Waiting, "for nothing: it replaces the other")
	require.NoError(t, s.MakeDue(t.Context(), []store.Key{{Model: "order", Key: "1"}}))
	claimed = s.claim(t)
	s.finish(t, "a", owned, queue.Outcome{Sent: claimed})
	require.Equal(t, int64(1), s.status(t).Retries)
}

func sentEndsRetries(t *testing.T, s *queueSuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0), message("1", 1))
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(only(s.claim(t), "1", 0), blink)})
	s.finish(t, "a", owned, queue.Outcome{Sent: only(s.claim(t), "1", 0)})
	require.Zero(t, s.status(t).Retries)
	left := s.claim(t)
	require.Equal(t, []string{"1/1"}, names(left))
	require.Zero(t, left[0].Attempts)
}

func fencesRemoval(t *testing.T, s *queueSuite) {
	old := s.balance(t, "a", blink)
	s.append(t, message("1", 0), message("2", 0))
	claimed := s.claim(t)
	current := s.balance(t, "b", ttl)
	s.finish(t, "a", old, queue.Outcome{Sent: claimed})
	require.Len(t, s.claim(t), 2, "the old owner removes nothing")
	s.finish(t, "b", old, queue.Outcome{Sent: claimed})
	require.Len(t, s.claim(t), 2, "an old epoch removes nothing")
	s.finish(t, "b", current, queue.Outcome{Sent: claimed})
	require.Empty(t, s.claim(t))
}

func fencesBurial(t *testing.T, s *queueSuite) {
	old := s.balance(t, "a", blink)
	s.append(t, message("1", 0))
	claimed := s.claim(t)
	s.balance(t, "b", ttl)
	s.finish(t, "a", old, queue.Outcome{Dead: failures(claimed, 0)})
	require.Zero(t, s.status(t).DeadLetters)
	require.Len(t, s.claim(t), 1)
}

func buriesWhole(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	dead := message("1", 3)
	dead.Queue, dead.CorrelationID, dead.Meta = "webhooks", "c-1", json.RawMessage(`{"m":1}`)
	s.append(t, dead, message("1", 4))
	claimed := only(s.claim(t), "1", 3)
	s.finish(t, "a", owned, queue.Outcome{Failed: failures(claimed, blink)})
	claimed = only(s.claim(t), "1", 3)
	s.finish(t, "a", owned, queue.Outcome{Dead: failures(claimed, 0)})

	require.Equal(t, []string{"1/4"}, names(s.claim(t)), "the next revision may go")
	st := s.status(t)
	require.Equal(t, int64(1), st.DeadLetters)
	require.Zero(t, st.Retries)
	var row struct {
		ID            int64
		Model, Key    string
		Revision      int64
		Queue, Meta   string
		CorrelationID string
		Attempts      int
		LastError     string
	}
	require.NoError(t, s.DB().NewSelect().Table("outbox_dead_letters").
		Column("id", "model", "key", "revision", "queue", "meta", "correlation_id", "attempts", "last_error").
		Scan(t.Context(), &row))
	require.Equal(t, claimed[0].ID, row.ID)
	require.Equal(t, int64(3), row.Revision)
	require.Equal(t, "webhooks", row.Queue)
	require.Equal(t, `{"m":1}`, row.Meta)
	require.Equal(t, "c-1", row.CorrelationID)
	require.Equal(t, 2, row.Attempts)
	require.Equal(t, "no queue", row.LastError)
}

func storesAnyErrorText(t *testing.T, s *relaySuite) {
	owned := s.balance(t, "a", ttl)
	s.append(t, message("1", 0))
	failed := failures(s.claim(t), time.Hour)
	failed[0].Error = "broken \x00 \xff? ' " + strings.Repeat("é", 10_000)
	s.finish(t, "a", owned, queue.Outcome{Failed: failed})
	var text string
	require.NoError(t, s.DB().NewSelect().Table("outbox_retries").Column("last_error").Scan(t.Context(), &text))
	require.True(t, strings.HasPrefix(text, "broken  ? ' é"))
	require.LessOrEqual(t, len(text), 2000)
}

func countsStatus(t *testing.T, s *queueSuite) {
	require.Equal(t, queue.Status{Lanes: lanes}, s.status(t))
	s.balance(t, "a", ttl)
	s.append(t, message("1", 0), message("2", 0))
	var st queue.Status
	require.Eventually(t, func() bool { // SQLite's clock counts milliseconds
		st = s.status(t)
		return st.OldestAge > 0
	}, 10*time.Second, time.Millisecond)
	require.Less(t, st.OldestAge, time.Hour)
	st.OldestAge = 0
	require.Equal(t, queue.Status{Unsent: 2, Relays: 1, Lanes: lanes, LanesOwned: lanes}, st)
}

func (s *relaySuite) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := s.DB().ExecContext(t.Context(), statement, args...)
	require.NoError(t, err)
}

func failures(messages []*queue.Claimed, wait time.Duration) []queue.Failure {
	failed := make([]queue.Failure, len(messages))
	for i, m := range messages {
		failed[i] = queue.Failure{Claimed: m, Error: "no queue", Wait: wait}
	}
	return failed
}

func only(messages []*queue.Claimed, key string, revision int64) []*queue.Claimed {
	for _, m := range messages {
		if m.Key == key && m.Revision == revision {
			return []*queue.Claimed{m}
		}
	}
	return nil
}

func names(messages []*queue.Claimed) []string {
	var out []string
	for _, m := range messages {
		out = append(out, fmt.Sprintf("%s/%d", m.Key, m.Revision))
	}
	return out
}
