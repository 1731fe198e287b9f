package replica_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/replica"
)

func TestPoisonIsADeadLetterAndTheNextMessageApplied(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		for _, body := range []string{"", "{", "[]", `{"signal_type":"SAVE"}`, "\x00\xff"} {
			require.NoError(t, f.Handler()(message.NewMessage("poison", []byte(body))))
		}
		unknown, badKey := of("invoice", envelope.Save, "1", 0, ""), save(1, 0, "a")
		badKey.Key = "1\x00"
		f.deliver(unknown, badKey, save(1, 0, "a"))

		require.Equal(t, map[int64]string{1: "a"}, f.notes())
		require.Equal(t, replica.Stats{Applied: 1, DeadLettered: 7}, f.Stats())
		letters := f.deadLetters()
		require.Len(t, letters, 7)
		require.Equal(t, `{"signal_type":"SAVE"}`, letters[3].Body)
		require.Contains(t, letters[3].Error, "cqrs_id", "the error names the key at fault")
		require.Contains(t, letters[5].Error, `model "invoice" is not registered`)
		require.Equal(t, "invoice", letters[5].Model)
		tables, err := admin.Open(db, admin.Config{})
		require.NoError(t, err)
		runbook.Says(t, "a message that cannot be applied (poison)",
			runbook.Status(t, tables, "--side", "replica"))
	})
}

func TestNewerRevisionSupersedesADeadLetter(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	f.deliver(save(1, 0, "a"), msg(envelope.Save, 1, 1, `"text":{}`), save(1, 2, "c"))
	require.Equal(t, map[int64]string{1: "c"}, f.notes())
	require.Equal(t, replica.Stats{Applied: 2, Gaps: 1, DeadLettered: 1}, f.Stats())
}

func TestNothingIsAcknowledgedThatCannotBeKept(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	_, err := f.db.ExecContext(t.Context(), "ALTER TABLE replica_dead_letters RENAME TO elsewhere")
	require.NoError(t, err)
	poison := message.NewMessage("poison", []byte("{"))
	ctx, stop := context.WithCancel(t.Context())
	poison.SetContext(ctx)
	result := make(chan error)
	go func() { result <- f.Handler()(poison) }()
	require.Eventually(t, func() bool { return f.Transactions() > 0 }, time.Minute, time.Millisecond)
	f.deliver(save(1, 0, "a")) // after the poison was tried: there is one worker
	stop()
	err = await(t, result)
	require.ErrorContains(t, err, "replica_dead_letters", "why it could not be kept")
	require.ErrorContains(t, err, "unreadable message", "why it had to be")
	require.Equal(t, replica.Stats{Applied: 1, Returned: 1}, f.Stats())
}

func TestExpiredMessageIsADeadLetterUnlessItDeletes(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		fresh, expired, gone := save(1, 0, "a"), save(1, 1, "b"), del(1, 2)
		fresh.Expires = noon.Add(time.Hour)
		expired.Expires = noon.Add(10 * time.Second)
		gone.Expires = noon.Add(-time.Hour)
		f.deliver(save(2, 10, "ten seconds later"), save(2, 11, "eleven seconds later"))

		f.deliver(fresh, expired)
		require.Equal(t, "a", f.notes()[1])
		require.Contains(t, f.deadLetters()[0].Error, "expired at ")
		f.deliver(gone)
		require.NotContains(t, f.notes(), int64(1))
		require.Equal(t, replica.Stats{Applied: 4, DeadLettered: 1}, f.Stats())
	})
}

func TestMessageForAnotherQueueIsIgnored(t *testing.T) {
	f := newFixture(t, dbtest.Open(t, dbtest.SQLiteURL(t)))
	mirror[Note](f, "note")
	ours, theirs := save(1, 0, "ours"), save(2, 0, "theirs")
	ours.Queue, theirs.Queue = queue, "stats"
	f.deliver(ours, theirs)
	require.Equal(t, map[int64]string{1: "ours"}, f.notes())
	require.Equal(t, replica.Stats{Applied: 1, Ignored: 1}, f.Stats())
}

// Parent and Child are two models with constraints between rows.
type Parent struct {
	ID   int64  `bun:",pk"`
	Name string `bun:",unique"`
}

type Child struct {
	ID       int64 `bun:",pk"`
	ParentID int64
}

func family(t *testing.T, db *bun.DB) *fixture {
	t.Helper()
	f := newFixture(t, db)
	mirror[Parent](f, "parent")
	_, err := db.NewCreateTable().Model((*Child)(nil)).
		ForeignKey("(parent_id) REFERENCES parents (id)").Exec(t.Context())
	require.NoError(t, err)
	require.NoError(t, replica.Register[Child](f.Replica, "child"))
	return f
}

func TestMissingParentIsWaitedFor(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := family(t, db)
		child := of("child", envelope.Save, "1", 0, `"parent_id":7`)
		f.deliver(child)
		require.Equal(t, replica.Stats{Waiting: 1}, f.Stats())
		require.Equal(t, "7", f.waiting()[0].Parent)

		f.deliver(of("parent", envelope.Save, "7", 0, `"name":"a"`))
		f.maintain(func() bool { return f.Stats().Applied == 2 })
		require.Equal(t, Child{1, 7}, one[Child](t, db, "id = 1"))
		require.Empty(t, f.deadLetters())
		require.Empty(t, f.waiting())
	})
}

func TestUniqueValueOfAnotherRowIsADeadLetterInTheEnd(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := family(t, db)
		f.deliver(of("parent", envelope.Save, "1", 0, `"name":"a"`), of("parent", envelope.Save, "2", 0, `"name":"a"`))
		f.maintain(func() bool { return f.Stats().DeadLettered == 1 })
		require.Equal(t, replica.Stats{Applied: 1, Waiting: 2, DeadLettered: 1}, f.Stats())
		require.Contains(t, f.deadLetters()[0].Error, "name")
	})
}

// P9: whatever a broker delivers, it ends: applied, or kept with the reason.
func FuzzAnyBodyHasAnEnd(f *testing.F) {
	for _, body := range []string{"", "{", "null", "\x00\xff",
		`{"signal_type":"SAVE","cqrs_id":"note","instance_data":{"id":1,"cqrs_revision":0,"text":"a"},"instance_pk":1}`,
		`{"signal_type":"DELETE","cqrs_id":"note","instance_data":{"id":1,"cqrs_revision":1},"instance_pk":1}`,
		`{"signal_type":"SYNC","cqrs_id":"note","instance_data":{"id":"1","cqrs_revision":9,"text":"\u0000"},"instance_pk":"1"}`} {
		f.Add([]byte(body))
	}
	db, err := database.Open(dbtest.SQLiteURL(f))
	require.NoError(f, err)
	f.Cleanup(func() { require.NoError(f, db.Close()) })
	_, err = db.ExecContext(f.Context(), "CREATE TABLE notes (id bigint PRIMARY KEY, text varchar)")
	require.NoError(f, err)
	rep, err := replica.New(db, replica.Config{Queue: queue, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(f, err)
	require.NoError(f, rep.Migrate(f.Context()))
	require.NoError(f, replica.Register[Note](rep, "note"))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := rep.Stats()
		require.NoError(t, rep.Handler()(message.NewMessage("fuzz", body)))
		after := rep.Stats()
		require.Zero(t, after.Returned)
		require.Equal(t, before.Applied+before.Duplicates+before.Stale+before.DeadLettered+before.Waiting+1,
			after.Applied+after.Duplicates+after.Stale+after.DeadLettered+after.Waiting)
	})
}

// Rows that exchange a unique value with each other pass where the database looks at the end of the statement.
func TestUniqueValuesAreSwapped(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		if db.Dialect().Name() != dialect.PG {
			t.Skip("only PostgreSQL's constraints can be deferred")
		}
		f := newFixture(t, db)
		mirror[Note](f, "note")
		_, err := db.ExecContext(t.Context(), "ALTER TABLE notes ADD UNIQUE (text) DEFERRABLE")
		require.NoError(t, err)
		for revision, texts := range [][]string{{"x", "y"}, {"y", "x"}} {
			var messages []*envelope.Message
			for i, text := range texts {
				m := save(int64(i), int64(revision), text)
				m.Key = string(m.PK)
				messages = append(messages, m)
			}
			_, err := f.Apply(t.Context(), messages)
			require.NoError(t, err)
		}
		require.Equal(t, map[int64]string{0: "y", 1: "x"}, f.notes())
		require.Equal(t, replica.Stats{Applied: 4}, f.Stats())
	})
}
