package outboxtest_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/outbox/outboxtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type seat struct {
	bun.BaseModel `bun:"table:seats"`
	outbox.Tracked

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

// failure returns what fn makes a test fail with, empty if it passes.
func failure(t *testing.T, fn func(t testing.TB)) string {
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		fn(r)
	}()
	<-done
	return r.failed
}

func TestRequirements(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		_, err := db.NewCreateTable().Model((*seat)(nil)).Exec(t.Context())
		require.NoError(t, err)
		box, err := outbox.New(db, outbox.Config{})
		require.NoError(t, err)
		require.NoError(t, outbox.Register[seat](box, "seat"))
		require.NoError(t, box.Migrate(t.Context()))
		write := func(fn func(tx bun.Tx) error) {
			require.NoError(t, box.RunInTx(t.Context(), nil, func(_ context.Context, tx bun.Tx) error { return fn(tx) }))
		}
		insert := func(s seat) {
			write(func(tx bun.Tx) error { _, err := tx.NewInsert().Model(&s).Exec(t.Context()); return err })
		}
		insert(seat{Row: 1, Place: "before"})

		sent := func(tb testing.TB) *outboxtest.Sent { return outboxtest.New(tb, db, outbox.Config{}) }
		s := sent(t)
		s.RequireNothing()
		insert(seat{Row: 1, Place: "A", Guest: "Ann"})
		insert(seat{Row: 2, Place: "A"})
		messages := s.RequireSaved("seat", []any{1, "A"}, []any{2, "A"})
		require.JSONEq(t, `{"row":1,"place":"A","guest":"Ann"}`, string(messages[0].Data))
		s.RequireNothing()
		write(func(tx bun.Tx) error {
			_, err := tx.NewDelete().Model(&seat{Row: 1, Place: "A"}).WherePK().Exec(t.Context())
			return err
		})
		require.EqualValues(t, 1, s.RequireDeleted("seat", []any{1, "A"})[0].Revision)
		s.RequireNothing()

		require.Contains(t, failure(t, func(tb testing.TB) { sent(tb).RequireSaved("seat", []any{1, "B"}) }),
			`want a SAVE of seat [1,"B"], the outbox holds:`+"\n  nothing")
		require.Contains(t, failure(t, func(tb testing.TB) {
			s := sent(tb)
			insert(seat{Row: 1, Place: "C"})
			s.RequireDeleted("seat", []any{1, "C"})
		}), `SAVE of seat [1,"C"], revision 0`)
		require.Contains(t, failure(t, func(tb testing.TB) {
			s := sent(tb)
			insert(seat{Row: 1, Place: "D"})
			s.RequireNothing()
		}), "want no further message")
	})
}
