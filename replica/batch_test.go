package replica_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// together delivers messages so that one transaction takes them.
func (f *fixture) together(messages ...*envelope.Message) {
	f.t.Helper()
	handler := f.Handler()
	release := f.HoldWorkers()
	var done sync.WaitGroup
	errs := make(chan error, len(messages))
	for i, m := range messages {
		d := delivery(f.t, m)
		done.Go(func() { errs <- handler(d) })
		require.Eventually(f.t, func() bool { return f.Held() == i+1 }, time.Minute, 100*time.Microsecond)
	}
	release()
	done.Wait()
	close(errs)
	for err := range errs {
		require.NoError(f.t, err)
	}
}

func TestFailingMessagesDoNotFailTheirNeighbours(t *testing.T) {
	type Row struct {
		ID    int64  `bun:",pk"`
		Text  string `bun:"type:varchar(40)"`
		Level int64  `bun:",notnull"`
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		_, err := db.ExecContext(t.Context(), "CREATE TABLE ? (id bigint PRIMARY KEY, text varchar(40), level bigint NOT NULL, CHECK (level < 100))",
			bun.Ident("rows"))
		require.NoError(t, err)
		require.NoError(t, replica.Register[Row](f.Replica, "note"))
		row := func(id, revision, level int64) *envelope.Message {
			return msg(envelope.Save, id, revision, `"text":"t`+strconv.FormatInt(id, 10)+`","level":`+strconv.FormatInt(level, 10))
		}
		var messages []*envelope.Message
		for id := range int64(30) {
			level := id
			if id%10 == 3 {
				level = 1000 // the table refuses it
			}
			messages = append(messages, row(id, 0, level))
		}
		messages = append(messages, msg(envelope.Save, 40, 0, `"text":"x"`), msg(envelope.Save, 41, 0, `"level":"x"`))
		f.together(messages...)

		n, err := db.NewSelect().Model((*Row)(nil)).Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 27, n)
		letters := f.deadLetters()
		reasons := map[string]int{}
		for _, l := range letters {
			switch {
			case strings.Contains(l.Error, `"level"`) && strings.Contains(l.Error, "requires"):
				reasons["missing"]++
			case strings.Contains(l.Error, "invalid syntax"):
				reasons["syntax"]++
			case strings.Contains(l.Key, "3"):
				reasons["check"]++
			}
		}
		require.Equal(t, map[string]int{"missing": 1, "syntax": 1, "check": 3}, reasons, "%v", letters)
		require.Equal(t, int64(-1), f.ledger(3).Revision)
		require.Equal(t, int64(0), f.ledger(4).Revision)

		f.deliver(row(3, 1, 5))
		require.EqualValues(t, 28, must(db.NewSelect().Model((*Row)(nil)).Count(t.Context())))
	})
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func TestPoisonRevisionLeavesTheOneBeforeIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		_, err := db.ExecContext(t.Context(), "CREATE TABLE notes (id bigint PRIMARY KEY, text varchar(40), CHECK (text <> 'bad'))")
		require.NoError(t, err)
		require.NoError(t, replica.Register[Note](f.Replica, "note"))
		f.together(save(1, 0, "a"), save(1, 1, "b"), save(1, 2, "bad"), save(2, 0, "c"))
		require.Equal(t, map[int64]string{1: "b", 2: "c"}, f.notes())
		require.EqualValues(t, 1, f.ledger(1).Revision)
		require.Len(t, f.deadLetters(), 1)
	})
}

// A message that carries a column which a newer one lacks is not lost in the newer one.
func TestPartsOfARowAddUpWithinABatch(t *testing.T) {
	type Row struct {
		ID    int64 `bun:",pk"`
		Text  string
		Extra string
	}
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Row](f, "note")
		f.together(msg(envelope.Save, 1, 0, `"text":"a","extra":"kept"`), msg(envelope.Save, 1, 1, `"text":"b"`),
			msg(envelope.Save, 2, 0, `"text":"a","extra":"gone"`), del(2, 1), msg(envelope.Save, 2, 2, `"text":"b"`))
		require.Equal(t, Row{1, "b", "kept"}, one[Row](t, db, "id = 1"))
		require.Equal(t, Row{2, "b", ""}, one[Row](t, db, "id = 2"))
	})
}

func TestAThousandChildrenBeforeTheirParentCauseNoStorm(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		const children = 1000
		f := newFixtureWith(t, db, replica.Config{})
		mirror[Parent](f, "parent")
		_, err := db.NewCreateTable().Model((*Child)(nil)).ForeignKey("(parent_id) REFERENCES parents (id)").Exec(t.Context())
		require.NoError(t, err)
		require.NoError(t, replica.Register[Child](f.Replica, "child",
			replica.WithRetry(replica.RetryPolicy{Attempts: 2, Min: time.Hour, Max: time.Hour})))
		var messages []*envelope.Message
		for i := range children {
			messages = append(messages, of("child", envelope.Save, strconv.Itoa(i), 0, `"parent_id":7`))
		}
		f.together(messages...)
		require.EqualValues(t, children, f.Stats().Waiting)

		f.deliver(of("parent", envelope.Save, "7", 0, `"name":"a"`))
		transactions := f.Transactions()
		f.maintain(func() bool { return f.Stats().Applied == children+1 })
		require.Less(t, f.Transactions()-transactions, int64(10), "in batches, once each")
		require.EqualValues(t, children, must(db.NewSelect().Model((*Child)(nil)).Count(t.Context())))
		require.Empty(t, f.waiting())
	})
}

func TestParentsAreWrittenBeforeTheirChildrenAndDeletedAfter(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		_, err := db.NewCreateTable().Model((*Parent)(nil)).Exec(t.Context())
		require.NoError(t, err)
		_, err = db.NewCreateTable().Model((*Child)(nil)).ForeignKey("(parent_id) REFERENCES parents (id)").Exec(t.Context())
		require.NoError(t, err)
		require.NoError(t, replica.Register[Child](f.Replica, "child")) // before its parent
		require.NoError(t, replica.Register[Parent](f.Replica, "parent"))
		mirror[Note](f, "note")
		f.together(of("child", envelope.Save, "1", 0, `"parent_id":7`), of("parent", envelope.Save, "7", 0, `"name":"a"`))
		require.EqualValues(t, 2, f.Stats().Applied)
		require.Zero(t, f.Stats().Waiting)
		f.together(of("parent", envelope.Delete, "7", 1, ""), of("child", envelope.Delete, "1", 1, ""))
		require.EqualValues(t, 4, f.Stats().Applied)
		require.Zero(t, f.Stats().Waiting)
	})
}

func TestHandleBatchGetsTheNewestOfEachKeyTogether(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Account](f, "account")
		_, err := db.NewCreateTable().Model((*Note)(nil)).Exec(t.Context())
		require.NoError(t, err)
		var calls []int
		require.NoError(t, replica.HandleBatch(f.Replica, "note",
			func(ctx context.Context, tx bun.Tx, events []replica.Event[Note]) error {
				calls = append(calls, len(events))
				for _, e := range events {
					if e.Data.Text == "bad" {
						_, _ = tx.ExecContext(ctx, "SELECT no_such_column") // and swallows the error
						return replica.Permanent(errors.New("a bad one"))
					}
					if e.Signal == envelope.Delete {
						continue
					}
					if _, err := tx.NewInsert().Model(&e.Data).Exec(ctx); err != nil {
						return err
					}
				}
				return nil
			}))
		f.together(save(1, 0, "a"), save(1, 1, "b"), save(2, 0, "bad"), save(3, 0, "c"))
		require.Equal(t, map[int64]string{1: "b", 3: "c"}, f.notes())
		require.Contains(t, calls, 3, "one event per key")
		require.Len(t, f.deadLetters(), 1)
	})
}

func TestSlowHandlersShareTheWorkers(t *testing.T) {
	f := newFixtureWith(t, dbtest.Open(t, dbtest.PostgresURL(t)), replica.Config{Workers: 4})
	all := make(chan struct{})
	var inside atomic.Int64
	handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
		if inside.Add(1) == 4 {
			close(all)
		}
		await(t, all)
		return insert(ctx, tx, e)
	})
	var done sync.WaitGroup
	for id := range int64(4) {
		d := delivery(t, save(id, 0, "a"))
		done.Go(func() { _ = f.Handler()(d) })
	}
	done.Wait()
	require.Len(t, f.notes(), 4)
}

func TestRetryAndDiscard(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		calls := map[int64]int{}
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			calls[e.Data.ID]++
			if err := insert(ctx, tx, e); err != nil {
				return err
			}
			switch {
			case e.Data.ID == 1 && calls[1] <= 10: // more than Attempts
				return replica.Retry(time.Millisecond, errors.New("busy"))
			case e.Data.ID == 2:
				return fmt.Errorf("handle: %w", replica.Discard(errors.New("not ours")))
			}
			return nil
		})
		f.deliver(save(1, 0, "a"), save(2, 0, "b"), save(2, 0, "b"))
		require.Equal(t, replica.Stats{Waiting: 1, Discarded: 1, Duplicates: 1}, f.Stats())
		require.EqualValues(t, 0, f.ledger(2).Revision, "the ledger moved on")
		f.maintain(func() bool { return f.Stats().Applied == 1 })
		require.Equal(t, 11, calls[1])
		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		require.Empty(t, f.deadLetters())
	})
	require.NoError(t, replica.Retry(0, nil))
	require.NoError(t, replica.Discard(nil))
}

func TestNewerRevisionOvertakesAWaitingOne(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		broken := true
		handle(f, func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			if broken {
				return errors.New("not yet")
			}
			return insert(ctx, tx, e)
		})
		f.deliver(save(1, 1, "b"), save(1, 0, "a"), save(1, 2, "c"))
		require.Len(t, f.waiting(), 1, "the newest of the key")
		require.EqualValues(t, 2, f.waiting()[0].Revision)
		broken = false
		f.deliver(save(1, 3, "d"), save(2, 0, "other"))
		require.Equal(t, map[int64]string{1: "d", 2: "other"}, f.notes())
		f.maintain(func() bool { return len(f.waiting()) == 0 })
		require.Equal(t, map[int64]string{1: "d", 2: "other"}, f.notes())
		require.Empty(t, f.deadLetters())
	})
}

func TestDeferredConstraintFailsOneMessageOnly(t *testing.T) {
	db := dbtest.Open(t, dbtest.PostgresURL(t))
	require.Equal(t, dialect.PG, db.Dialect().Name())
	f := newFixture(t, db)
	mirror[Parent](f, "parent")
	_, err := db.ExecContext(t.Context(), "CREATE TABLE children (id bigint PRIMARY KEY, parent_id bigint REFERENCES parents DEFERRABLE INITIALLY DEFERRED)")
	require.NoError(t, err)
	require.NoError(t, replica.Register[Child](f.Replica, "child"))
	mirror[Note](f, "note")
	f.together(of("child", envelope.Save, "1", 0, `"parent_id":7`), save(1, 0, "a"))
	require.Equal(t, map[int64]string{1: "a"}, f.notes())
	require.EqualValues(t, 1, f.Stats().Waiting)
}

func TestOfSeveralThatFailTheNewestWaits(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := family(t, db)
		parent := func(id string, revision int64, name string) *envelope.Message {
			return of("parent", envelope.Save, id, revision, `"name":"`+name+`"`)
		}
		f.deliver(parent("1", 0, "a"))
		f.together(parent("2", 0, "a"), parent("2", 1, "a"), parent("2", 2, "a"))
		require.Len(t, f.waiting(), 1)
		require.EqualValues(t, 2, f.waiting()[0].Revision)
		require.Equal(t, replica.Stats{Applied: 1, Waiting: 1, Stale: 2}, f.Stats())
		n, err := db.NewSelect().Table("replica_revisions").Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1, n, "no trace of a key that was never applied")
	})
}

func TestPoisonOfANewKeyLeavesNoTraceInTheLedger(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(msg(envelope.Save, 1, 0, `"text":{}`))
		n, err := db.NewSelect().Table("replica_revisions").Count(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestLessThanABatchIsLeftToTheWorkerThatIsBusy(t *testing.T) {
	f := newFixtureWith(t, dbtest.Open(t, dbtest.PostgresURL(t)), replica.Config{Workers: 2, Batch: 2}) // SQLite has one transaction
	mirror[Note](f, "note")
	begun, proceed := make(chan int64, 3), [3]chan struct{}{}
	for i := range proceed {
		proceed[i] = make(chan struct{})
	}
	f.CrashAt(func(point string) error {
		if point == "folded" {
			n := f.Transactions()
			begun <- n
			<-proceed[n-1]
		}
		return nil
	})
	handler := f.Handler()
	var done sync.WaitGroup
	send := func(ids ...int64) {
		for _, id := range ids {
			d := delivery(t, save(id, 0, "a"))
			done.Go(func() { assert.NoError(t, handler(d)) })
		}
	}
	send(1)
	require.EqualValues(t, 1, <-begun)
	send(2, 3)
	require.EqualValues(t, 2, <-begun, "a whole batch has a worker of its own")
	send(4)
	require.Eventually(t, func() bool { return f.Held() == 1 }, time.Minute, time.Millisecond)
	close(proceed[2])
	close(proceed[1])
	require.Eventually(t, func() bool { return f.Working() == 1 }, time.Minute, time.Millisecond)
	assert.EqualValues(t, 2, f.Transactions())
	close(proceed[0])
	done.Wait()
	assert.EqualValues(t, 3, f.Transactions())
	require.Len(t, f.notes(), 4)
}
