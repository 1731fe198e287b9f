package relay_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

// of marks messages as those of a timeline.
func of(timeline string, messages ...queue.Message) []queue.Message {
	for i := range messages {
		messages[i].Data = json.RawMessage(fmt.Sprintf(`{"status":%q}`, timeline))
	}
	return messages
}

// requirePublished waits until every message of a timeline was published, or one that replaces it.
func (e *env) requirePublished(t *testing.T, timeline string, want []queue.Message) {
	t.Helper()
	e.requireSent(t)
	e.broker.mu.Lock()
	defer e.broker.mu.Unlock()
	got := map[string]int64{}
	for _, m := range e.broker.got {
		var data struct{ Status string }
		require.NoError(t, json.Unmarshal(m.Data, &data))
		if last, known := got[m.Key]; data.Status == timeline && (!known || last < m.Revision) {
			got[m.Key] = m.Revision
		}
	}
	for _, m := range want {
		revision, known := got[m.Key]
		require.True(t, known, "nothing of key %s was published", m.Key)
		require.GreaterOrEqual(t, revision, m.Revision, "key %s", m.Key)
	}
}

func TestADatabaseThatGoesBackWhileMessagesAreInFlightLosesNothing(t *testing.T) {
	for name, keep := range map[string]bool{"every revision": true, "the newest": false} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				e := newEnv(t, db)
				timeline := func(name string, messages ...queue.Message) []queue.Message {
					for i := range messages {
						messages[i].Keep = keep
					}
					return of(name, messages...)
				}
				inFlight, goOn := make(chan struct{}), make(chan struct{})
				var once sync.Once
				e.broker.before = func(context.Context, []transport.Outgoing) {
					once.Do(func() {
						close(inFlight)
						<-goOn
					})
				}
				more := func() []queue.Message { return append(saves(5, 4)[10:], saves(25, 1)[5:]...) }
				both := timeline("both", saves(5, 2)...)
				e.append(t, both...)
				restore := dbtest.BackUpOutbox(t, db)
				e.append(t, timeline("lost", more()...)...)
				rel, _ := e.start(t, e.broker, relay.Config{BatchSize: 100, LeaseTTL: 2 * time.Second})
				wait(t, inFlight, "a batch in flight")
				restore()
				newer := timeline("new", more()...)
				e.append(t, newer...)
				close(goOn)
				wait(t, rel.Running(), "lanes")
				e.requirePublished(t, "new", newer)
				later := timeline("later", save("k1", 4), save("other", 0))
				e.append(t, later...)
				e.requirePublished(t, "later", later)
			})
		})
	}
}

func TestADatabaseThatGoesBackWithMessagesSentLosesNothing(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		rel, _ := e.start(t, e.broker, relay.Config{LeaseTTL: 2 * time.Second})
		wait(t, rel.Running(), "lanes")
		restore := dbtest.BackUpOutbox(t, db)
		first := of("lost", saves(30, 2)...)
		e.append(t, first...)
		e.requirePublished(t, "lost", first)
		renewed := e.expiry(t)
		eventually(t, func() bool { return e.expiry(t) != renewed }, "the lease is not renewed")
		restore()
		second := of("new", saves(40, 2)...)
		e.append(t, second...)
		e.requirePublished(t, "new", second)
		eventually(t, func() bool { return rel.Stats().LeasesLost == 1 && rel.Stats().Lanes == 64 }, "it is not noticed")
		require.Equal(t, 1, e.logs.count("lanes lost"))
		e.requireIncarnations(t, "lost", "new")
	})
}

// requireIncarnations expects two timelines to have been published under an incarnation each, of which the second is the
// database's.
func (e *env) requireIncarnations(t *testing.T, before, after string) {
	t.Helper()
	e.broker.mu.Lock()
	defer e.broker.mu.Unlock()
	found := map[string]string{}
	for _, m := range e.broker.got {
		var data struct{ Status string }
		require.NoError(t, json.Unmarshal(m.Data, &data))
		require.NotEmpty(t, m.Incarnation)
		found[data.Status] = m.Incarnation
	}
	now, err := e.Incarnation(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, now.ID, found[before])
	require.Contains(t, now.Reason, "went back")
}

// away makes the database refuse what a relay asks of it, until the function that is returned is called.
func (e *env) away(t *testing.T) (back func()) {
	t.Helper()
	for _, table := range []string{"outbox_lanes", "outbox_messages"} {
		e.exec(t, fmt.Sprintf("ALTER TABLE %[1]s RENAME TO %[1]s_away", table))
	}
	return func() {
		t.Helper()
		for _, table := range []string{"outbox_lanes", "outbox_messages"} {
			e.exec(t, fmt.Sprintf("ALTER TABLE %[1]s_away RENAME TO %[1]s", table))
		}
	}
}

func TestWhatWasSentIsForgottenWhenTheLeaseHasRunOut(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		inFlight, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		e.broker.before = func(context.Context, []transport.Outgoing) {
			once.Do(func() {
				close(inFlight)
				<-goOn
			})
		}
		e.append(t, saves(3, 1)...)
		rel, _ := e.start(t, e.broker, relay.Config{LeaseTTL: 2 * time.Second})
		wait(t, inFlight, "a batch in flight")
		back := e.away(t)
		close(goOn)
		eventually(t, func() bool { return rel.Stats().LeasesLost == 1 }, "the lease does not run out")
		back()
		e.requireSent(t)
		require.Len(t, e.broker.received(), 6, "they were sent again, because nobody knew whether the database had forgotten them")
		e.broker.requireOrder(t)
	})
}
