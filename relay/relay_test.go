package relay_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport"
)

func TestRunPublishesEverythingOnceAndInOrder(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.append(t, saves(40, 5)...)
		rel, stop := e.start(t, e.broker, relay.Config{BatchSize: 30})
		wait(t, rel.Running(), "lanes")
		e.requireSent(t)
		e.append(t, saves(40, 5)[:20]...) // what comes later
		e.requireSent(t)
		require.NoError(t, stop())
		require.Len(t, e.broker.received(), 220)
		e.broker.requireOrder(t)
		stats := rel.Stats()
		require.Equal(t, int64(220), stats.Published)
		require.Positive(t, stats.Batches)
		require.Zero(t, stats.Retries+stats.DeadLetters+stats.Lanes)
	})
}

func TestRunWorksWithAStockPublisher(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.append(t, saves(20, 3)...)
		e.start(t, stock{e.broker}, relay.Config{})
		e.requireSent(t)
		require.Len(t, e.broker.received(), 60)
		e.broker.requireOrder(t)
	})
}

func TestRunPublishesTheWholeMessage(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		after := int64(5)
		updated := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
		row := queue.Message{
			Model: "order", Key: "[1,\"a\"]", Revision: 7, After: &after, Signal: "SYNC", Queue: "webhooks",
			PK: json.RawMessage(`[1,"a"]`), Data: json.RawMessage(`{"total":12345678901234567890.10}`),
			Previous: json.RawMessage(`{"total":1}`), Meta: json.RawMessage(`{"m":1}`),
			Headers: map[string]string{"traceparent": "00-ab-cd-01"}, CorrelationID: "c-1",
			Updated: updated, Expires: updated.Add(24 * time.Hour),
		}
		e.append(t, row)
		e.start(t, e.broker, relay.Config{})
		e.requireSent(t)
		got := e.broker.got[0]
		require.Equal(t, "cqrs.webhooks.order", got.topic)
		require.NotEmpty(t, got.Incarnation)
		require.Equal(t, &envelope.Message{
			Incarnation: got.Incarnation,
			Signal:      envelope.Sync, Model: row.Model, PK: row.PK, Key: row.Key, Revision: 7, After: &after, Queue: "webhooks",
			Data:    json.RawMessage(`{"total":12345678901234567890.10,"cqrs_revision":7,"cqrs_updated":"2026-11-22 22:16:33.237828+00:00"}`),
			Updated: updated, Previous: row.Previous, Meta: row.Meta, CorrelationID: "c-1", Expires: row.Expires,
			Headers: row.Headers,
		}, got.Message)

		bare := save("2", 0)
		e.append(t, bare)
		e.requireSent(t)
		require.Equal(t, "order", e.broker.got[1].topic)
		require.Equal(t, envelope.NothingBefore, *e.broker.got[1].After, "it says that it is the first")

		bare.Signal = "SYNC"
		e.append(t, bare)
		e.requireSent(t)
		require.Nil(t, e.broker.got[2].After, "a SYNC does not know what was sent")
	})
}

func TestACleanStopFinishesWhatIsInFlightAndHandsTheLanesBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		inFlight, release := make(chan struct{}), make(chan struct{})
		var once sync.Once
		e.broker.before = func(context.Context, []transport.Outgoing) {
			once.Do(func() { close(inFlight) })
			<-release
		}
		e.append(t, saves(10, 2)...)
		_, stop := e.start(t, e.broker, relay.Config{})
		wait(t, inFlight, "a batch in flight")
		stopped := make(chan error)
		go func() { stopped <- stop() }()
		select {
		case err := <-stopped:
			require.FailNow(t, "Run returned while a batch was in flight", "%v", err)
		case <-time.After(50 * time.Millisecond): // a chance to do it wrong; the test does not depend on it
		}
		close(release)
		require.NoError(t, <-stopped)
		require.Len(t, e.broker.received(), 10, "what was in flight, and no more")
		st := e.status(t)
		require.Equal(t, int64(10), st.Unsent)
		require.Zero(t, st.Relays)
		require.Zero(t, st.LanesOwned)

		e.start(t, e.broker, relay.Config{})
		e.requireSent(t)
		require.Len(t, e.broker.received(), 20, "nothing was sent twice")
		e.broker.requireOrder(t)
	})
}

func TestAStopDoesNotWaitForeverForTheBroker(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		inFlight := make(chan struct{}, 100)
		e.broker.before = func(ctx context.Context, _ []transport.Outgoing) {
			inFlight <- struct{}{}
			<-ctx.Done()
		}
		e.append(t, saves(10, 2)...)
		_, stop := e.start(t, e.broker, relay.Config{ShutdownTimeout: time.Second})
		wait(t, inFlight, "a batch in flight")
		require.NoError(t, stop())
		st := e.status(t)
		require.Equal(t, int64(20), st.Unsent)
		require.Zero(t, st.Retries, "no attempt is spent")
		require.Zero(t, st.Relays)
	})
}

func TestAWakeUpIsHeard(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		wake := make(chan struct{}, 1)
		// The lease is long too: a pause ends at a heartbeat at the latest.
		rel, _ := e.start(t, e.broker, relay.Config{Wake: wake, PollInterval: time.Hour, LeaseTTL: time.Hour})
		wait(t, rel.Running(), "lanes")
		for i := range 5 {
			e.append(t, save("1", int64(i)))
			wake <- struct{}{}
			e.requireSent(t)
		}
		close(wake) // the outbox is gone: polling goes on, and nothing spins
		require.Equal(t, int64(5), rel.Stats().Published)
	})
}

func TestABacklogInOneLaneDoesNotStarveTheOthers(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		e := newEnv(t, db)
		e.append(t, saves(64, 1)...)
		var starts []queue.Start
		for lane := range 16 {
			starts = append(starts, queue.Start{Lane: lane})
		}
		claimed, _, err := e.Claim(t.Context(), starts, 1000, queue.Except{})
		require.NoError(t, err)
		low, high := claimed[0], claimed[len(claimed)-1]
		require.Less(t, low.Lane, high.Lane)
		e.exec(t, "DELETE FROM outbox_messages")

		var backlog []queue.Message
		for revision := range int64(100) {
			backlog = append(backlog, save(low.Key, revision))
		}
		e.append(t, append(backlog, save(high.Key, 0))...)
		e.start(t, e.broker, relay.Config{BatchSize: 10})
		e.requireSent(t)
		e.broker.requireOrder(t)
		require.Less(t, slices.Index(e.broker.received(), high.Key+"/0"), 20)
	})
}

func TestRunNeedsTheTables(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		rel, err := relay.New(db, &broker{}, relay.Config{})
		require.NoError(t, err)
		err = rel.Run(t.Context())
		require.ErrorIs(t, err, relay.ErrNotMigrated)
		require.ErrorContains(t, err, "relay migrate")
		require.ErrorContains(t, rel.Run(t.Context()), "called before")
	})
}

func TestRunReportsADatabaseThatCannotBeReachedAtTheStart(t *testing.T) {
	db, err := database.Open("postgres://user:secret@127.0.0.1:1/none?sslmode=disable")
	require.NoError(t, err)
	defer func() { require.NoError(t, db.Close()) }()
	rel, err := relay.New(db, &broker{}, relay.Config{})
	require.NoError(t, err)
	err = rel.Run(t.Context())
	require.Error(t, err)
	require.NotContains(t, err.Error(), "secret")

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	rel, err = relay.New(db, &broker{}, relay.Config{})
	require.NoError(t, err)
	require.NoError(t, rel.Run(ended), "asked to end before it began")
}

func TestNewReportsEveryConfigurationErrorAtOnce(t *testing.T) {
	_, err := relay.New(nil, nil, relay.Config{
		BatchSize: -1, PollInterval: -1, LeaseTTL: time.Millisecond, MaxAttempts: -1, RetryMin: time.Hour, RetryMax: time.Minute,
		ShutdownTimeout: -1, Schema: "a b", TablePrefix: "c-",
	})
	for _, part := range []string{
		"db is nil", "publisher is nil", "BatchSize is -1", "PollInterval is -1ns", "LeaseTTL is 1ms", "MaxAttempts is -1",
		"RetryMax is 1m0s", "ShutdownTimeout is -1ns",
	} {
		require.ErrorContains(t, err, part)
	}
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	_, err = relay.New(db, &broker{}, relay.Config{Schema: "a b", TablePrefix: "c-"})
	require.ErrorContains(t, err, `schema "a b"`)
	require.ErrorContains(t, err, `table prefix "c-"`)
}
