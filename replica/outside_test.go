package replica_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
)

// letterbox is a publisher that keeps what it gets.
type letterbox struct {
	mu      sync.Mutex
	topics  []string
	letters []*message.Message
	err     error
}

func (l *letterbox) Publish(topic string, messages ...*message.Message) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return l.err
	}
	for _, m := range messages {
		l.topics, l.letters = append(l.topics, topic), append(l.letters, m)
	}
	return nil
}

func (l *letterbox) Close() error { return nil }

func TestHandleFuncIsCalledOutsideOfTransactionsAndGated(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		var got []string
		fail := errors.New("the search engine is down")
		require.NoError(t, replica.HandleFunc(f.Replica, "note", func(_ context.Context, e replica.Event[Note]) error {
			got = append(got, string(e.Signal)+e.Key+e.Data.Text)
			switch e.Data.Text {
			case "fail":
				err := fail
				fail = nil
				return err
			case "poison":
				return replica.Permanent(errors.New("never"))
			case "panic":
				panic("at the handler's")
			}
			return nil
		}))
		f.deliver(save(1, 0, "a"), save(1, 0, "a"), save(1, 2, "c"), save(1, 1, "b"), del(1, 3))
		require.Equal(t, []string{"SAVE1a", "SAVE1c", "DELETE1"}, got)
		require.Equal(t, replica.Stats{Applied: 3, Gaps: 1, Duplicates: 1, Stale: 1}, f.Stats())
		require.True(t, f.ledger(1).Deleted)

		f.deliver(save(2, 0, "fail"), save(3, 0, "poison"), save(4, 0, "panic"))
		require.Len(t, f.waiting(), 2)
		require.Len(t, f.deadLetters(), 1)
		f.maintain(func() bool { return f.ledger(2).Revision == 0 })
	})
}

func TestHandleFuncRunsOnAllWorkers(t *testing.T) {
	f := newFixtureWith(t, dbtest.Open(t, dbtest.SQLiteURL(t)), replica.Config{Workers: 3})
	all := make(chan struct{})
	var inside atomic.Int64
	require.NoError(t, replica.HandleFunc(f.Replica, "note", func(context.Context, replica.Event[Note]) error {
		if inside.Add(1) == 3 {
			close(all)
		}
		await(t, all)
		return nil
	}))
	var done sync.WaitGroup
	for id := range int64(3) {
		d := delivery(t, save(id, 0, "a"))
		done.Go(func() { _ = f.Handler()(d) })
	}
	done.Wait()
	require.EqualValues(t, 3, f.Stats().Applied)
}

func TestReplicaWithoutADatabase(t *testing.T) {
	box := &letterbox{}
	rep, err := replica.New(nil, replica.Config{
		Queue: queue, DeadLetters: box, Logger: slog.New(slog.DiscardHandler), MaxPayload: 1000,
		Retry: replica.RetryPolicy{Attempts: 3, Min: time.Microsecond, Max: time.Microsecond},
	})
	require.NoError(t, err)
	require.ErrorContains(t, replica.Register[Account](rep, "account"), "the replica has no database: use HandleFunc")

	rep, err = replica.New(nil, replica.Config{
		Queue: queue, DeadLetters: box, Logger: slog.New(slog.DiscardHandler), MaxPayload: 1000,
		Retry: replica.RetryPolicy{Attempts: 3, Min: time.Microsecond, Max: time.Microsecond},
	})
	require.NoError(t, err)
	var calls atomic.Int64
	require.NoError(t, replica.HandleFunc(rep, "note", func(_ context.Context, e replica.Event[Note]) error {
		calls.Add(1)
		switch e.Data.Text {
		case "bad":
			return errors.New("always")
		case "once":
			if calls.Load() < 3 {
				return errors.New("not yet")
			}
		case "drop":
			return replica.Discard(errors.New("not ours"))
		}
		return nil
	}))
	stopped := run(t, rep, newBroker(t))
	await(t, rep.Running())
	require.NoError(t, stopped())

	handle := rep.Handler()
	require.NoError(t, handle(delivery(t, save(1, 0, "a"))))
	require.NoError(t, handle(delivery(t, save(1, 0, "a"))), "without a ledger, duplicates are handed over")
	require.EqualValues(t, 2, rep.Stats().Applied)
	calls.Store(0)
	require.NoError(t, handle(delivery(t, save(2, 0, "once"))))
	require.EqualValues(t, 3, calls.Load())
	require.NoError(t, handle(delivery(t, save(2, 1, "drop"))))
	require.EqualValues(t, 1, rep.Stats().Discarded)

	calls.Store(0)
	require.NoError(t, handle(delivery(t, save(3, 4, "bad"))))
	require.EqualValues(t, 3, calls.Load())
	require.NoError(t, handle(message.NewMessage("unreadable", []byte("{"))))
	require.NoError(t, handle(message.NewMessage("large", []byte(strings.Repeat("x", 1001)))))
	require.Equal(t, []string{"cqrs.dead_letter_webhooks.note", "cqrs.dead_letter_webhooks.note", "cqrs.dead_letter_webhooks.note"}, box.topics)
	var body struct {
		Retries int
		CqrsID  string `json:"cqrs_id"`
	}
	require.NoError(t, json.Unmarshal(box.letters[0].Payload, &body))
	require.Equal(t, 2, body.Retries, "as django-cqrs counts them")
	require.Equal(t, "note", body.CqrsID)
	require.Contains(t, box.letters[0].Metadata["cqrsync_error"], "always")
	require.Equal(t, "864000000", box.letters[0].Metadata[transport.ExpirationKey])
	require.Equal(t, "{", string(box.letters[1].Payload), "whole")
	counts := rep.DeadLetters()
	require.EqualValues(t, 1, counts[replica.Exhausted])
	require.EqualValues(t, 1, counts[replica.Unreadable])
	require.EqualValues(t, 1, counts[replica.TooLarge])
}

func TestDeadLettersGoToTheirQueue(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box := &letterbox{}
		f := newFixtureWith(t, db, replica.Config{DeadLetters: box, MaxPayload: 1000})
		mirror[Note](f, "note")
		expired := save(2, 0, "b")
		expired.Expires = noon.Add(-time.Hour) // before the master's next message
		f.deliver(of("invoice", envelope.Save, "1", 0, ""), save(1, 0, "a"), expired, msg(envelope.Save, 3, 0, `"text":{}`))
		large := save(7, 3, strings.Repeat("x", 1001))
		f.deliver(large)
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		require.Empty(t, f.deadLetters())
		require.Equal(t, map[replica.Reason]int64{
			replica.UnknownModel: 1, replica.Expired: 1, replica.Unfit: 1, replica.TooLarge: 1, replica.Unreadable: 0, replica.Exhausted: 0,
		}, f.DeadLetters())
		require.Len(t, box.letters, 4)
		require.Equal(t, transport.DirectTopic("dead_letter_"+queue, "note"), box.topics[0], "an unknown model goes where somebody listens")
	})
}

// django-cqrs's commands die of a letter that they cannot read, and of all behind it. So these stay here.
func TestUnreadableLettersGoToTheTable(t *testing.T) {
	const data = `"instance_data":{"id":7,"text":"a","cqrs_revision":3}`
	long := strings.Repeat("x", 1001)
	three := int64(3)
	tests := map[string]struct {
		body string
		want deadLetter
	}{
		"text":            {"hello", deadLetter{}},
		"cut off":         {`{"signal_type":"SAVE","cqrs_id":"note",` + data + `,"instance_pk":7,"previ`, deadLetter{Model: "note", Key: "7", Revision: &three}},
		"a list":          {"[]", deadLetter{}},
		"bytes":           {"\x00\xff{", deadLetter{}},
		"a signal":        {`{"signal_type":"MOVE","cqrs_id":"note",` + data + `,"instance_pk":7}`, deadLetter{Model: "note", Key: "7", Revision: &three}},
		"no signal":       {`{"cqrs_id":"note",` + data + `,"instance_pk":7}`, deadLetter{Model: "note", Key: "7", Revision: &three}},
		"retries":         {`{"signal_type":"SAVE","cqrs_id":"note",` + data + `,"instance_pk":7,"retries":"x"}`, deadLetter{Model: "note", Key: "7", Revision: &three}},
		"no revision":     {`{"signal_type":"SAVE","cqrs_id":"note","instance_data":{},"instance_pk":[7,"a"]}`, deadLetter{Model: "note", Key: `[7,"a"]`}},
		"no key":          {`{"signal_type":"SAVE","cqrs_id":"note",` + data + `}`, deadLetter{Model: "note", Revision: &three}},
		"a model":         {`{"signal_type":"SAVE","cqrs_id":"a b",` + data + `,"instance_pk":7}`, deadLetter{Key: "7", Revision: &three}},
		"large, and text": {long, deadLetter{}},
		"large, cut off":  {`{"cqrs_id":"note","instance_pk":"k","instance_data":{"text":"` + long, deadLetter{Model: "note", Key: "k"}},
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		box := &letterbox{}
		f := newFixtureWith(t, db, replica.Config{DeadLetters: box, MaxPayload: 1000})
		mirror[Note](f, "note")
		for name, test := range tests {
			_, err := db.NewRaw("DELETE FROM replica_dead_letters").Exec(t.Context())
			require.NoError(t, err)
			require.NoError(t, f.Handler()(message.NewMessage(name, []byte(test.body))), name)
			letters := f.deadLetters()
			require.Len(t, letters, 1, name)
			require.NotEmpty(t, letters[0].Error)
			test.want.Body, test.want.Error = test.body, letters[0].Error
			if name == "bytes" {
				test.want.Body = base64.StdEncoding.EncodeToString([]byte(test.body))
			}
			require.Equal(t, test.want, letters[0], name)
		}
		require.Empty(t, box.letters)
		require.EqualValues(t, len(tests), f.Stats().DeadLettered)
	})
}

func TestTheLogSaysWhoseAnUnreadableLetterIs(t *testing.T) {
	var logged strings.Builder
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(db, replica.Config{Queue: queue, Logger: slog.New(slog.NewTextHandler(&logged, nil))})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	mirror[Note](&fixture{rep, t, db}, "note")
	require.NoError(t, rep.Handler()(message.NewMessage("id", []byte(`{"cqrs_id":"note","instance_pk":7,"cut`))))
	require.Contains(t, logged.String(), `msg="message is a dead letter" queue=webhooks uuid=id model=note key=7 reason=unreadable`)
}

func TestGapsAreToldAndLoggedOncePerKey(t *testing.T) {
	var gaps []replica.Gap
	var logged strings.Builder
	db := dbtest.Open(t, dbtest.SQLiteURL(t))
	rep, err := replica.New(db, replica.Config{
		Queue: queue, Logger: slog.New(slog.NewTextHandler(&logged, nil)), WaitForMissing: -1,
		OnGap: func(_ context.Context, g replica.Gap) {
			gaps = append(gaps, g)
			panic("no harm done")
		},
	})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	f := &fixture{rep, t, db}
	mirror[Note](f, "note")
	after := int64(8)
	last := save(1, 9, "d")
	last.After = &after
	f.deliver(save(1, 0, "a"), save(1, 3, "b"), last)
	require.Equal(t, []replica.Gap{
		{Model: "note", Key: "1", Had: 0, Missing: 2, Applied: 3}, {Model: "note", Key: "1", Had: 3, Missing: 8, Applied: 9},
	}, gaps)
	require.Equal(t, 1, strings.Count(logged.String(), "a message is missing"), logged.String())
	require.Contains(t, logged.String(), "had=0 missing=2 applied=3")
}

func TestWaitForSeesWhatComes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		other := newFixture(t, db)
		require.NoError(t, replica.Register[Note](other.Replica, "note"))
		f.deliver(save(1, 3, "a"))
		require.NoError(t, f.WaitFor(t.Context(), "note", "1", 3))

		waited := make(chan error, 2)
		go func() { waited <- f.WaitFor(t.Context(), "note", "1", 5) }()
		go func() { waited <- other.WaitFor(t.Context(), "note", "1", 5) }()
		f.deliver(save(1, 4, "b"))
		require.Empty(t, waited)
		f.deliver(del(1, 5))
		require.NoError(t, await(t, waited))
		require.NoError(t, await(t, waited))

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		err := f.WaitFor(ctx, "note", "2", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, `wait for revision 0 of model "note" key "2", which is at none`)
	})
}

func TestLagIsTheAgeOfTheNewestChange(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		first := newFixture(t, db)
		mirror[Note](first, "note")
		mirror[Account](first, "account")
		hourAgo := time.Now().Add(-time.Hour)
		first.deliver(at(save(1, 0, "a"), 0, hourAgo), at(save(2, 0, "a"), 0, hourAgo.Add(-time.Hour)))
		second := newFixture(t, db)
		require.NoError(t, replica.Register[Note](second.Replica, "note"))
		for _, f := range []*fixture{first, second} {
			lags, err := f.Lag(t.Context())
			require.NoError(t, err)
			require.Len(t, lags, 1)
			require.InDelta(t, time.Hour, lags["note"], float64(time.Minute))
		}
		second.deliver(at(save(1, 1, "b"), 1, time.Now()))
		lags, err := second.Lag(t.Context())
		require.NoError(t, err)
		require.Less(t, lags["note"], time.Minute)
	})
}

func TestTombstonesAreKeptForTheirTime(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixtureWith(t, db, replica.Config{KeepTombstones: time.Hour})
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), del(1, 1), save(2, 0, "b"))
		n, err := f.CollectTombstones(t.Context())
		require.NoError(t, err)
		require.Zero(t, n, "by this replica's clock, not by the master's, whose delete was long ago")

		impatient := newFixtureWith(t, db, replica.Config{KeepTombstones: time.Nanosecond})
		require.Eventually(t, func() bool {
			n, err = impatient.CollectTombstones(t.Context())
			return err != nil || n == 1
		}, time.Minute, time.Millisecond)
		require.NoError(t, err)
		require.EqualValues(t, 0, f.ledger(2).Revision)
		forever := newFixtureWith(t, db, replica.Config{KeepTombstones: -1})
		n, err = forever.CollectTombstones(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestApplyTellsWhatBecameOfEach(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		results, err := f.Apply(t.Context(), onTheWire(t, []*envelope.Message{
			save(1, 0, "a"), save(1, 0, "a"), msg(envelope.Save, 2, 0, `"text":{}`), save(1, 1, "b"), save(3, 5, "c"),
		}))
		require.NoError(t, err)
		var outcomes []string
		for _, r := range results {
			outcomes = append(outcomes, r.Outcome.String())
		}
		require.Equal(t, []string{"applied", "duplicate", "returned", "applied", "applied"}, outcomes)
		require.ErrorContains(t, results[2].Err, "an object cannot be read as string")
		require.Empty(t, f.deadLetters(), "the message is the caller's")
		require.Empty(t, f.waiting())

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = f.Apply(ctx, onTheWire(t, []*envelope.Message{save(4, 0, "d")}))
		require.ErrorIs(t, err, context.Canceled)
	})
}
