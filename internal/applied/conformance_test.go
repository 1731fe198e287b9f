package applied_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/dbtest"
)

// TestConformance runs on every kind of database, and on PostgreSQL with any driver.
func TestConformance(t *testing.T) { dbtest.Everywhere(t, exercise) }

// exercise tries the replica's ledger and dead letters on one kind of database.
func exercise(t *testing.T, open func(testing.TB) *bun.DB) {
	for name, test := range map[string]func(*testing.T, *suite){
		"an unknown key was never applied":           knowsNothing,
		"what was settled is read back":              settles,
		"a rolled back lock leaves nothing":          leavesNoPlaceholder,
		"more keys than one statement takes":         locksManyKeys,
		"who comes second sees what the first wrote": waitsForTheFirst,
		"consumers that lock the same keys all pass": neverDeadlocks,
		"what was read is settled once":              settlesWhatWasRead,
		"unsettled placeholders can be forgotten":    forgetsPlaceholders,
		"a waiting message is claimed when due":      claimsWaiting,
		"the newest message of a key waits":          replacesWaiting,
		"a parent releases what waits for it":        releasesWaiting,
		"old tombstones are collected":               collectsTombstones,
		"the ledger tells revisions and times":       tellsRevisions,
		"live keys are listed with revisions":        listsLiveKeys,
		"a ledger speaks for its table or not":       comparesLedgerAndTable,
		"the catalog knows a table":                  knowsTables,
		"a dead letter is the whole message":         keepsWholeDeadLetter,
		"a dead letter may hold any bytes":           keepsAnyBytes,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &suite{newTables(t, open(t))})
		})
	}
}

type suite struct{ *applied.Tables }

// settle locks the keys of rows and writes what next makes of what was there, in one transaction.
func (s *suite) settle(ctx context.Context, keys []applied.Key, next func(applied.Applied) applied.Applied) error {
	return s.DB().RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		locked, err := s.LockApplied(ctx, tx, keys)
		if err != nil {
			return err
		}
		var rows []applied.Applied
		for _, row := range locked {
			rows = append(rows, next(row))
		}
		return s.SettleApplied(ctx, tx, rows)
	})
}

func (s *suite) read(t *testing.T, keys ...applied.Key) map[applied.Key]applied.Applied {
	t.Helper()
	locked, err := s.LockApplied(t.Context(), s.DB(), keys)
	require.NoError(t, err)
	return locked
}

func knowsNothing(t *testing.T, s *suite) {
	a, b := applied.Key{Model: "order", Key: "1"}, applied.Key{Model: "note", Key: `["a",1]`}
	require.Equal(t, map[applied.Key]applied.Applied{
		a: {Key: a, Revision: applied.NeverApplied},
		b: {Key: b, Revision: applied.NeverApplied},
	}, s.read(t, a, b))
}

func settles(t *testing.T, s *suite) {
	at := time.Date(2026, 11, 22, 22, 16, 33, 237828000, time.UTC)
	live := applied.Applied{Key: applied.Key{Model: "order", Key: "1"}, Revision: 7, Updated: at}
	dead := applied.Applied{Key: applied.Key{Model: "order", Key: "2"}, Revision: 9007199254740993, Deleted: true}
	quoted := applied.Applied{Key: applied.Key{Model: "note", Key: `it's ? "ü"\`}, Updated: at.Add(time.Microsecond)}
	for _, rows := range [][]applied.Applied{
		{live, dead, quoted},
		{{Key: live.Key, Revision: 8, Deleted: true}, {Key: dead.Key, Revision: 0, Updated: at}, quoted},
	} {
		require.NoError(t, s.SettleApplied(t.Context(), s.DB(), rows))
		want := make(map[applied.Key]applied.Applied)
		for _, row := range rows {
			want[row.Key] = row
		}
		require.Equal(t, want, s.read(t, live.Key, dead.Key, quoted.Key))
	}
}

func leavesNoPlaceholder(t *testing.T, s *suite) {
	enough := errors.New("enough")
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		_, err := s.LockApplied(ctx, tx, []applied.Key{{Model: "order", Key: "1"}})
		return errors.Join(err, enough)
	})
	require.ErrorIs(t, err, enough)
	var n int
	require.NoError(t, s.DB().NewRaw("SELECT count(*) FROM replica_revisions").Scan(t.Context(), &n))
	require.Zero(t, n)
}

func locksManyKeys(t *testing.T, s *suite) {
	keys := make([]applied.Key, 5000)
	for i := range keys {
		keys[i] = applied.Key{Model: "order", Key: strings.Repeat("k", i%7) + time.Duration(i).String()}
	}
	require.NoError(t, s.settle(t.Context(), keys, func(a applied.Applied) applied.Applied {
		a.Revision++
		return a
	}))
	for _, row := range s.read(t, keys...) {
		require.Zero(t, row.Revision)
	}
}

// waitsForTheFirst is the race that a gate must win: two consumers meet a key that neither has seen.
func waitsForTheFirst(t *testing.T, s *suite) {
	key := applied.Key{Model: "order", Key: "1"}
	locked, second := make(chan struct{}), make(chan error)
	err := s.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		rows, err := s.LockApplied(ctx, tx, []applied.Key{key})
		require.NoError(t, err)
		require.Equal(t, applied.NeverApplied, rows[key].Revision)
		go func() {
			close(locked)
			second <- s.settle(t.Context(), []applied.Key{key}, func(a applied.Applied) applied.Applied {
				a.Revision += 10
				return a
			})
		}()
		<-locked
		return s.SettleApplied(ctx, tx, []applied.Applied{{Key: key, Revision: 3}})
	})
	require.NoError(t, err)
	require.NoError(t, <-second)
	require.EqualValues(t, 13, s.read(t, key)[key].Revision)
}

func neverDeadlocks(t *testing.T, s *suite) {
	keys := []applied.Key{{Model: "b", Key: "1"}, {Model: "a", Key: "2"}, {Model: "a", Key: "10"}, {Model: "c", Key: ""}}
	const consumers, rounds = 4, 10
	errs := make(chan error, consumers*rounds)
	var done sync.WaitGroup
	for i := range consumers {
		done.Go(func() {
			for round := range rounds {
				mine := append(append([]applied.Key{}, keys[(i+round)%4:]...), keys[:(i+round)%4]...)
				errs <- s.settle(t.Context(), mine, func(a applied.Applied) applied.Applied {
					a.Revision++
					return a
				})
			}
		})
	}
	done.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	for _, row := range s.read(t, keys...) {
		require.EqualValues(t, consumers*rounds-1, row.Revision)
	}
}

type deadLetter struct {
	Queue, Model, Key, Body, Metadata, Error *string
	Revision                                 *int64
}

func (s *suite) bury(t *testing.T, d applied.DeadLetter) deadLetter {
	t.Helper()
	require.NoError(t, s.AddDeadLetter(t.Context(), s.DB(), d))
	var row deadLetter
	require.NoError(t, s.DB().NewRaw(
		"SELECT queue, model, ?, revision, body, metadata, error FROM replica_dead_letters ORDER BY id DESC LIMIT 1",
		bun.Ident("key")).
		Scan(t.Context(), &row))
	return row
}

func keepsWholeDeadLetter(t *testing.T, s *suite) {
	revision := int64(4)
	row := s.bury(t, applied.DeadLetter{
		Queue: "webhooks", Model: "order", Key: "it's", Revision: &revision,
		Body: []byte(`{"a": "?'\\"}`), Metadata: map[string]string{"cqrs_key": "1"}, Error: "no such column",
	})
	require.Equal(t, "webhooks", *row.Queue)
	require.Equal(t, "order", *row.Model)
	require.Equal(t, "it's", *row.Key)
	require.Equal(t, revision, *row.Revision)
	require.Equal(t, `{"a": "?'\\"}`, *row.Body)
	require.JSONEq(t, `{"cqrs_key":"1"}`, *row.Metadata)
	require.Equal(t, "no such column", *row.Error)
}

func keepsAnyBytes(t *testing.T, s *suite) {
	row := s.bury(t, applied.DeadLetter{Queue: "q", Body: []byte("\x00\xff{"), Error: "bad \xff byte \x00"})
	require.Nil(t, row.Model)
	require.Nil(t, row.Key)
	require.Nil(t, row.Revision)
	require.Equal(t, "AP97", *row.Body)
	require.JSONEq(t, `{"cqrsync_body_encoding":"base64"}`, *row.Metadata)
	require.Equal(t, "bad \uFFFD byte \uFFFD", *row.Error)

	require.Empty(t, *s.bury(t, applied.DeadLetter{Queue: "q", Error: "empty"}).Body)
}
