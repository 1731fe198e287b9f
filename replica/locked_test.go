package replica_test

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/mirrored"
	"github.com/cqrsync/cqrsync/replica"
)

// logged is a log that tests read while it is written.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// lockable runs a test on the databases that lock rows, with a replica whose transactions have little time.
func lockable(t *testing.T, config replica.Config, test func(t *testing.T, f *fixture, log *logged)) {
	t.Helper()
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		if db.Dialect().Name() == dialect.SQLite {
			t.Skip("SQLite locks no rows")
		}
		log := &logged{}
		config := config
		config.Logger = slog.New(slog.NewTextHandler(log, nil))
		config.Retry = replica.RetryPolicy{Attempts: 3, Min: time.Microsecond, Max: time.Microsecond}
		rep := sibling(t, db, config)
		rep.Limit(2 * time.Second)
		test(t, &fixture{rep, t, db}, log)
	})
}

// lockRow locks a row of notes in a transaction of the service's own.
func (f *fixture) lockRow(id int64) (unlock func()) {
	f.t.Helper()
	tx, err := f.db.BeginTx(f.t.Context(), nil)
	require.NoError(f.t, err)
	_, err = tx.ExecContext(f.t.Context(), "UPDATE notes SET text = 'theirs' WHERE id = ?", id)
	require.NoError(f.t, err)
	f.t.Cleanup(func() { _ = tx.Rollback() })
	return func() { require.NoError(f.t, tx.Rollback()) }
}

func TestLockedRowStopsItsKeyOnly(t *testing.T) {
	lockable(t, replica.Config{}, func(t *testing.T, f *fixture, log *logged) {
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), save(2, 0, "a"), save(3, 0, "a"))
		unlock := f.lockRow(2)
		start := time.Now()
		messages := []*envelope.Message{save(1, 1, "b"), save(2, 1, "b"), save(3, 1, "b")}
		for id := range int64(60) {
			messages = append(messages, save(100+id, 0, "new"))
		}
		f.together(messages...)
		require.Less(t, time.Since(start), 10*time.Second)
		require.Equal(t, "b", f.notes()[1])
		require.Len(t, f.notes(), 63)
		waiting := f.waiting()
		require.Len(t, waiting, 1, "%v", waiting)
		require.Equal(t, "2", waiting[0].Key)
		require.Zero(t, waiting[0].Attempts, "no attempt is spent")
		require.Contains(t, log.String(), `key=2`)
		require.Contains(t, log.String(), "database process", "the log says who holds it")

		start = time.Now()
		f.deliver(save(2, 2, "c"), save(1, 2, "c"))
		require.Less(t, time.Since(start), time.Second, "what is known to be locked is not waited for again")
		require.Equal(t, "c", f.notes()[1])
		require.EqualValues(t, 0, f.ledger(2).Revision)
		unlock()
		f.maintain(func() bool { return f.ledger(2).Revision == 2 })
		require.Equal(t, "c", f.notes()[2])
		f.maintain(func() bool { return len(f.waiting()) == 0 })
		require.Empty(t, f.deadLetters())
	})
}

// A transaction of the service that changes the whole table is not the end of the other models.
func TestLockedTableStopsItsModelOnly(t *testing.T) {
	lockable(t, replica.Config{}, func(t *testing.T, f *fixture, _ *logged) {
		mirror[Note](f, "note")
		mirror[Account](f, "account")
		var messages []*envelope.Message
		for id := range int64(150) {
			messages = append(messages, save(id, 0, "a"))
		}
		f.together(messages...)
		tx, err := f.db.BeginTx(t.Context(), nil)
		require.NoError(t, err)
		defer func() { _ = tx.Rollback() }()
		_, err = tx.ExecContext(t.Context(), "UPDATE notes SET text = 'theirs'")
		require.NoError(t, err)
		messages = nil
		for id := range int64(150) {
			messages = append(messages, save(id, 1, "b"), of("account", envelope.Save, strconv.FormatInt(id, 10), 0, `"name":"a"`))
		}
		start := time.Now()
		f.together(messages...)
		require.Less(t, time.Since(start), 20*time.Second)
		n, err := f.db.NewSelect().Model((*Account)(nil)).Count(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 150, n)
		require.Len(t, f.waiting(), 150)
		require.NoError(t, tx.Rollback())
		f.maintain(func() bool { return f.notes()[149] == "b" && len(f.waiting()) == 0 })
	})
}

func TestHandlerThatMeetsALockWaitsForItsKeyOnly(t *testing.T) {
	lockable(t, replica.Config{WaitForMissing: time.Hour}, func(t *testing.T, f *fixture, _ *logged) {
		_, err := f.db.NewCreateTable().Model((*Note)(nil)).Exec(t.Context())
		require.NoError(t, err)
		var got []string
		require.NoError(t, replica.Handle(f.Replica, "note", func(ctx context.Context, tx bun.Tx, e replica.Event[Note]) error {
			if _, err := tx.ExecContext(ctx, "DELETE FROM notes WHERE id = ?", e.Data.ID); err != nil {
				return err
			}
			if _, err := tx.NewInsert().Model(&e.Data).Exec(ctx); err != nil {
				return err
			}
			got = append(got, fmt.Sprintf("%s@%d", e.Key, e.Revision))
			return nil
		}))
		f.deliver(following(save(1, 0, "a"), -1), following(save(2, 0, "a"), -1))
		unlock := f.lockRow(2)
		got = nil
		f.together(following(save(2, 1, "b"), 0), following(save(2, 2, "c"), 1), following(save(1, 1, "b"), 0))
		require.Equal(t, []string{"1@1"}, got)
		require.Len(t, f.waiting(), 2)
		unlock()
		f.maintain(func() bool { return f.ledger(2).Revision == 2 })
		require.Equal(t, []string{"1@1", "2@1", "2@2"}, got)
	})
}

// A process that is stopped within its transaction holds what it has locked, until the database ends it.
func TestFrozenSiblingStopsNobody(t *testing.T) {
	lockable(t, replica.Config{}, func(t *testing.T, f *fixture, log *logged) {
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), save(2, 0, "a"))
		frozen := sibling(t, f.db, replica.Config{})
		frozen.Limit(4 * time.Second)
		require.NoError(t, replica.Register[Note](frozen, "note"))
		stopped, proceed := make(chan struct{}), make(chan struct{})
		var once sync.Once
		frozen.CrashAt(func(point string) error {
			if point == "kept" {
				once.Do(func() { close(stopped); <-proceed })
			}
			return nil
		})
		theirs := make(chan error, 1)
		_, err := mirrored.Of(frozen).Model("note")
		require.NoError(t, err)
		go func() {
			_, err := frozen.Apply(context.Background(), []*envelope.Message{keyed(save(1, 1, "b")), keyed(save(2, 1, "b")), keyed(save(3, 0, "new"))})
			theirs <- err
		}()
		await(t, stopped)

		start := time.Now()
		f.together(save(1, 2, "c"), save(2, 2, "c"), save(3, 1, "newer"), save(4, 0, "other"))
		assert.Less(t, time.Since(start), 4*time.Second)
		assert.Equal(t, "other", f.notes()[4])
		assert.Contains(t, log.String(), "locked by another transaction: the key waits")
		f.maintain(func() bool {
			return f.ledger(1).Revision == 2 && f.ledger(2).Revision == 2 && f.ledger(3).Revision == 1
		})
		assert.Less(t, time.Since(start), 20*time.Second, "the database ended it")
		close(proceed)
		assert.NoError(t, await(t, theirs))
		require.Equal(t, map[int64]string{1: "c", 2: "c", 3: "newer", 4: "other"}, f.notes())
	})
}

// keyed is a message as it is read.
func keyed(m *envelope.Message) *envelope.Message {
	m.Key = string(m.PK)
	return m
}

// What no broker keeps is tried until the row is free.
func TestApplyIsPatientWithLocks(t *testing.T) {
	lockable(t, replica.Config{}, func(t *testing.T, f *fixture, _ *logged) {
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), save(2, 0, "a"))
		unlock := f.lockRow(2)
		go func() {
			assert.Eventually(t, func() bool { return f.ledger(1).Revision == 1 }, 20*time.Second, 5*time.Millisecond)
			unlock()
		}()
		results, err := f.Apply(t.Context(), []*envelope.Message{keyed(save(1, 1, "b")), keyed(save(2, 1, "b"))})
		require.NoError(t, err)
		require.Equal(t, []replica.Result{{Applied: true}, {Applied: true}}, results)
		require.Empty(t, f.waiting())
	})
}
