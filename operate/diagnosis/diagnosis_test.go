package diagnosis_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/operate/diagnosis"
)

// scene is a master's database, and what is written there past its relays.
type scene struct {
	*testing.T
	db     *bun.DB
	tables *admin.Tables
	now    time.Time
}

func (s scene) exec(statement string, args ...any) {
	s.Helper()
	_, err := s.db.ExecContext(s.Context(), statement, args...)
	require.NoError(s, err, statement)
}

// at is a time as the database keeps it.
func (s scene) at(ago time.Duration) any {
	if t := s.now.Add(-ago); s.db.Dialect().Name().String() == "pg" {
		return t
	}
	return s.now.Add(-ago).UnixMicro()
}

func (s scene) read() diagnosis.State {
	s.Helper()
	return diagnosis.Read(s.Context(), s.tables, diagnosis.Config{})
}

func each(t *testing.T, test func(scene)) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		tables, err := admin.Open(db, admin.Config{})
		require.NoError(t, err)
		test(scene{t, db, tables, time.Now()})
	})
}

// started has the tables, and a relay that lives.
func started(t *testing.T, test func(scene)) {
	each(t, func(s scene) {
		_, err := s.tables.Migrate(s.Context(), admin.OutboxSide)
		require.NoError(s, err)
		s.exec("INSERT INTO outbox_relays (id, expires_at, ttl) VALUES ('one', ?, 3600000000)",
			s.at(-time.Hour))
		test(s)
	})
}

func kindsOf(s diagnosis.State) (kinds []diagnosis.Kind) {
	for _, t := range s.Troubles {
		kinds = append(kinds, t.Kind)
	}
	return kinds
}

func TestADatabaseWithoutTablesOrRelaysIsNamed(t *testing.T) {
	each(t, func(s scene) {
		state := s.read()
		require.Equal(s, []diagnosis.Kind{diagnosis.NotMigrated}, kindsOf(state))
		require.False(s, state.Readable)
		_, err := s.tables.Migrate(s.Context(), admin.OutboxSide)
		require.NoError(s, err)
		state = s.read()
		require.True(s, state.Readable)
		require.Equal(s, "No relay runs.", state.Sentence)
		require.Equal(s, "docs/operations.md#no-relay", state.Troubles[0].Runbook)
	})
}

func TestADatabaseThatIsAwayIsATrouble(t *testing.T) {
	each(t, func(s scene) {
		ctx, cancel := context.WithCancelCause(s.Context())
		cancel(errors.New("the network is down"))
		state := diagnosis.Read(ctx, s.tables, diagnosis.Config{})
		require.Equal(s, []diagnosis.Kind{diagnosis.DatabaseAway}, kindsOf(state))
		require.NotZero(s, state.At)
	})
}

func TestAllIsWell(t *testing.T) {
	started(t, func(s scene) {
		require.Equal(s, "Everything is moving. No replica has reported.", s.read().Sentence)
		s.replica("stats", `["order","customer"]`, 5*time.Second, 0)
		require.Equal(s, "Everything is moving. 1 replica, not compared yet.", s.read().Sentence)
		through := s.now.Add(-time.Minute).UTC()
		for _, model := range []string{"order", "customer"} {
			s.exec("INSERT INTO outbox_verifications (queue, model, state, changed_at) VALUES "+
				"('stats', ?, ?, ?)", model, `{"through":"`+through.Format(time.RFC3339Nano)+`",
				"last":{"id":"x","outcome":"equal"}}`, s.at(0))
		}
		require.Equal(s, "Everything is moving. 1 replica, equal as of "+through.Format("15:04:05")+
			".", s.read().Sentence)
	})
}

func (s scene) replica(queue, models string, reported time.Duration, letters int) {
	s.exec("INSERT INTO outbox_replicas (queue, models, first_at, reported_at) VALUES (?, ?, ?, ?)",
		queue, models, s.at(time.Hour), s.at(reported))
	s.exec("INSERT INTO outbox_replica_instances (queue, instance, pace, reported_at, report) "+
		"VALUES (?, 'one', 10000000, ?, ?)", queue, s.at(reported),
		fmt.Sprintf(`{"library":"v1","models":[{"id":"order","dead_letters":%d}]}`, letters))
}

func TestWhatWaitsIsNamedWithItsReason(t *testing.T) {
	started(t, func(s scene) {
		s.retry("order", "17", 12*time.Minute+time.Second, `the queue "stats" is full after 17`)
		require.Equal(s, `order 17 waits for 12 min: the broker does not take it: `+
			`the queue "stats" is full after 17.`, s.read().Sentence)
		s.retry("order", "18", 5*time.Minute, `the queue "web" is full after 3`)
		s.retry("order", "19", 2*time.Second, `something that passes`)
		state := s.read()
		require.Equal(s, []diagnosis.Kind{diagnosis.KeysWait}, kindsOf(state))
		require.Equal(s, "2 keys wait, order 17 for 12 min", state.Troubles[0].What)
		require.Len(s, state.Stuck, 2, "alike in their words are one group")
		require.Equal(s, 2, state.Stuck[0].Count)
		s.retry("order", "20\x1b[31m", time.Minute, "bad\nnews")
		require.NotContains(s, s.read().Troubles[1].Sentence(), "\n")
		require.NotContains(s, s.read().Troubles[1].Sentence(), "\x1b")
	})
}

func (s scene) retry(model, key string, since time.Duration, err string) {
	column := "key"
	if s.db.Dialect().Name().String() == "mysql" {
		column = "`key`"
	}
	s.exec("INSERT INTO outbox_retries (model, "+column+", attempts, next_attempt_at, last_error, "+
		"since) VALUES (?, ?, 4, ?, ?, ?)", model, key, s.at(-time.Minute), err, s.at(since))
}

func TestAnOutageHidesWhatFollowsFromIt(t *testing.T) {
	started(t, func(s scene) {
		master, err := s.tables.Master(s.Context())
		require.NoError(s, err)
		s.replica("stats", `["order"]`, 10*time.Minute, 3)
		require.Equal(s, []diagnosis.Kind{diagnosis.ReplicaSilent, diagnosis.ReplicaDeadLetters},
			kindsOf(s.read()))
		say := func(text string) {
			require.NoError(s, master.SayOutages(s.Context(), "relay one", []admin.Outage{
				{What: "broker", Since: s.now.Add(-4 * time.Minute), Error: text},
			}))
		}
		say("dial tcp 10.0.0.7:5672: connection refused")
		state := s.read()
		require.Equal(s, "The broker cannot be reached for 4 min, nothing waits: dial tcp "+
			"10.0.0.7:5672: connection refused. And 1 other trouble.", state.Sentence)
		say(`Exception (403) Reason: "username or password not allowed"`)
		require.Equal(s, diagnosis.BrokerRefuses, s.read().Troubles[0].Kind)
		say("RabbitMQ has blocked publishers for 30s: low on disk")
		require.Equal(s, diagnosis.BrokerFull, s.read().Troubles[0].Kind)
		require.NoError(s, master.SayOutages(s.Context(), "relay one", nil))
		require.Equal(s, diagnosis.ReplicaSilent, s.read().Troubles[0].Kind)
	})
}

func TestARelaySaysWhatItWaitsForUntilItEnds(t *testing.T) {
	started(t, func(s scene) {
		ctx, stop := context.WithCancel(s.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			diagnosis.Tell(ctx, s.tables, "relay one", func() []admin.Outage {
				return []admin.Outage{{What: "broker", Since: s.now.Add(-time.Hour), Error: "gone"}}
			}, nil)
		}()
		require.Eventually(s, func() bool { return len(s.read().Outages) == 1 }, time.Minute,
			10*time.Millisecond)
		stop()
		<-ended
		require.Empty(s, s.read().Outages)
	})
}
