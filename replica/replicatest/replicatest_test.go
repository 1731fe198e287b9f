package replicatest_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/replica/replicatest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type seat struct {
	bun.BaseModel `bun:"table:seats"`

	Row   int64  `bun:",pk"`
	Place string `bun:",pk"`
	Guest string
}

// recorder is a test that may fail.
type recorder struct {
	testing.TB
	failed string
}

func (r *recorder) Helper() {}
func (r *recorder) Fatalf(format string, args ...any) {
	r.failed = fmt.Sprintf(format, args...)
	runtime.Goexit()
}

func TestRequirements(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.NewCreateTable().Model((*seat)(nil)).Exec(t.Context())
		require.NoError(t, err)
		told := &recorder{TB: t}
		var refuse error
		kit := replicatest.New(told, db, replica.Config{Queue: "seats"}, func(rep *replica.Replica) error {
			return errors.Join(
				replica.Register[seat](rep, "seat"),
				replica.Handle(rep, "guest", func(context.Context, bun.Tx, replica.Event[seat]) error { return refuse }),
			)
		})
		failure := func(fn func()) string {
			told.failed = ""
			done := make(chan struct{})
			go func() {
				defer close(done)
				fn()
			}()
			<-done
			return told.failed
		}
		key := []any{1, "A"}
		kit.Save("seat", key, map[string]any{"row": 1, "place": "A", "guest": "Ann"})
		replicatest.RequireRow(kit, seat{Row: 1, Place: "A", Guest: "Ann"})
		require.Contains(t, failure(func() { replicatest.RequireRow(kit, seat{Row: 1, Place: "A", Guest: "Bob"}) }), "Guest:Ann")
		require.Contains(t, failure(func() { replicatest.RequireRow(kit, seat{Row: 2, Place: "A"}) }), "there is none")
		require.Contains(t, failure(func() { replicatest.RequireNoRow(kit, seat{Row: 1, Place: "A"}) }), "Guest:Ann")

		_, err = db.NewDelete().Model((*seat)(nil)).Where("1 = 1").Exec(t.Context())
		require.NoError(t, err)
		kit.Sync("seat", key, map[string]any{"row": 1, "place": "A", "guest": "Ann"})
		replicatest.RequireRow(kit, seat{Row: 1, Place: "A", Guest: "Ann"})
		kit.Delete("seat", key)
		replicatest.RequireNoRow(kit, seat{Row: 1, Place: "A"})
		kit.Save("seat", key, map[string]any{"row": 1, "place": "A", "guest": "Eve"})
		replicatest.RequireRow(kit, seat{Row: 1, Place: "A", Guest: "Eve"})
		kit.RequireNothingLeft()
		require.EqualValues(t, 4, kit.Replica.Stats().Applied)

		refuse = errors.New("not now")
		kit.Save("guest", 7, map[string]any{"row": 1, "place": "A"})
		refuse = replica.Permanent(errors.New("never"))
		kit.Save("guest", 8, map[string]any{"row": 1, "place": "A"})
		left := failure(kit.RequireNothingLeft)
		require.Contains(t, left, "a dead letter of guest 8: ")
		require.Contains(t, left, "guest 7 waits: ")
		require.Contains(t, kit.RequireWaiting("guest", 7), "not now")
		require.Contains(t, kit.RequireDeadLetter("guest", 8), "never")
		kit.RequireNothingLeft()
		require.Contains(t, failure(func() { kit.RequireWaiting("guest", 9) }), "there is none")
		require.Contains(t, failure(func() { kit.RequireDeadLetter("guest", 9) }), "there is none")
		require.Contains(t, failure(func() { kit.Deliver(&envelope.Message{Signal: "?"}) }), "SAVE")
	})
}
