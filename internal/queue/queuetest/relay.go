// Package queuetest is the conformance suite of package queue: what an outbox must do for relays,
// in whatever database, and in memory.
//
// Test packages only.
package queuetest

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// Relay exercises what only a database can show, of lanes, claims, retries and dead letters.
func Relay(t *testing.T, open func(testing.TB) *bun.DB) {
	Queue(t, func(t testing.TB) Subject {
		s, _ := inSQL(t, open(t))
		return s
	})
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
		"progress counts lanes that nobody owns":              seesAllLanes,
		"a dead letter goes back whole, behind its key":       putsBackWhole,
		"a superseded dead letter stays":                      keepsSuperseded,
		"a dead letter of a deleted key stays":                keepsDeleted,
		"a retry waits for a writer of its key":               retryWaitsForWriters,
		"dead letters are chosen, paged and purged":           listsAndPurges,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, o := inSQL(t, open(t))
			test(t, &relaySuite{&queueSuite{s}, o})
		})
	}
}

type relaySuite struct {
	*queueSuite
	*mastertest.Outbox
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

func message(key string, revision int64) queue.Message {
	return queue.Message{
		Model: "order", Key: key, Revision: revision, Signal: "SAVE",
		PK:   json.RawMessage(fmt.Sprintf("%q", key)),
		Data: json.RawMessage(`{"status":"new"}`), Updated: time.Now(),
	}
}

// kept is a message that no newer one replaces.
func kept(key string, revision int64) queue.Message {
	m := message(key, revision)
	m.Keep = true
	return m
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
