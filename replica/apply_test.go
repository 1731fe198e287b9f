package replica_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// gateMessage completes a gate case for note id.
func gateMessage(c replica.GateCase, id int64) *envelope.Message {
	m := save(id, 0, "new")
	if c.Message.Signal == envelope.Delete {
		m = del(id, 0)
	}
	m.Signal, m.After, m.Force = c.Message.Signal, c.Message.After, c.Message.Force
	m.ForceUntil = c.Message.ForceUntil
	return at(m, c.Message.Revision, c.Message.Updated)
}

// seed writes a gate case's ledger row for note id.
func (f *fixture) seed(c replica.GateCase, id int64) applied.Applied {
	f.t.Helper()
	row := c.Ledger
	row.Key = db.Key{Model: "note", Key: strconv.FormatInt(id, 10)}
	if row.Revision != applied.NeverApplied {
		s := tablesOf(f.t, f.db)
		require.NoError(f.t, s.SettleApplied(f.t.Context(), f.db, []applied.Applied{row}))
	}
	return row
}

func (f *fixture) requireOutcome(before replica.Stats, want string) (applied bool) {
	f.t.Helper()
	switch want {
	case "applied":
		before.Applied++
	case "gap":
		before.Applied++
		before.Gaps++
	case "duplicate":
		before.Duplicates++
	case "stale":
		before.Stale++
	}
	after := f.Stats()
	after.Overtaken = before.Overtaken
	require.Equal(f.t, before, after)
	return want == "applied" || want == "gap"
}

func TestGateRowsOnMirror(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		for i, c := range replica.GateCases() {
			id := int64(i)
			before, stats := f.seed(c, id), f.Stats()
			if c.Ledger.Revision != applied.NeverApplied && !c.Ledger.Deleted {
				_, err := db.NewInsert().Model(&Note{ID: id, Text: "old"}).Exec(t.Context())
				require.NoError(t, err)
			}
			rows := f.notes()

			f.deliver(gateMessage(c, id))

			want := before
			if f.requireOutcome(stats, c.Want) {
				want = c.Settled
				want.Key = before.Key
				rows[id] = "new"
				if c.Message.Signal == envelope.Delete {
					delete(rows, id)
				}
			}
			require.Equal(t, want, f.ledger(id), c.Name)
			require.Equal(t, rows, f.notes(), c.Name)
		}
	})
}

func TestGateRowsOnHandler(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		var calls []replica.Event[Note]
		require.NoError(t, replica.Handle(f.Replica, "note",
			func(_ context.Context, _ bun.Tx, e replica.Event[Note]) error {
				calls = append(calls, e)
				return nil
			}))
		for i, c := range replica.GateCases() {
			id := int64(i)
			before, stats, called := f.seed(c, id), f.Stats(), len(calls)

			f.deliver(gateMessage(c, id))

			want := before
			if f.requireOutcome(stats, c.Want) {
				want = c.Settled
				want.Key = before.Key
				require.Len(t, calls, called+1, c.Name)
				e := calls[called]
				require.Equal(t, c.Message.Signal, e.Signal)
				require.Equal(t, c.Message.Signal == envelope.Sync, e.Sync)
				require.Equal(t, id, e.Data.ID)
				require.Equal(t, c.Message.Revision, e.Revision)
				require.Equal(t, c.Message.Updated, e.Updated)
			} else {
				require.Len(t, calls, called, c.Name)
			}
			require.Equal(t, want, f.ledger(id), c.Name)
		}
	})
}

func TestDuplicatesAndStaleMessagesHaveNoEffect(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), save(1, 1, "b"), save(1, 1, "b"), save(1, 0, "a"), save(1, 2, "c"), save(1, 1, "b"))
		require.Equal(t, map[int64]string{1: "c"}, f.notes())
		require.Equal(t, replica.Stats{Applied: 3, Duplicates: 1, Stale: 2}, f.Stats())
	})
}

func TestDeletedStaysDeletedUntilCreatedAgain(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), del(1, 2), save(1, 1, "late"))
		require.Empty(t, f.notes())
		require.EqualValues(t, 2, f.ledger(1).Revision)
		require.True(t, f.ledger(1).Deleted)

		f.deliver(save(1, 3, "again"))
		require.Equal(t, map[int64]string{1: "again"}, f.notes())
		require.False(t, f.ledger(1).Deleted)
	})
}

// Two deletes around a save that comes last: the second delete finds no row, and must move the tombstone all the same.
func TestLateSaveBetweenTwoDeletesDoesNotResurrect(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), del(1, 1), del(1, 3), save(1, 2, "between"))
		require.Empty(t, f.notes())
	})
}

func TestDjangoMasterStartsOverAfterDelete(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "a"), save(1, 1, "b"), save(1, 2, "c"))
		// The revision of the DELETE is too low, the new row's starts at 0: time decides.
		f.deliver(at(del(1, 0), 1, noon.Add(time.Minute)))
		require.Empty(t, f.notes())
		f.deliver(at(save(1, 0, "again"), 0, noon.Add(time.Hour)), at(save(1, 1, "more"), 1, noon.Add(2*time.Hour)))
		require.Equal(t, map[int64]string{1: "more"}, f.notes())
	})
}

func TestSyncRepairsTheRow(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 0, "right"))
		_, err := db.NewUpdate().Model(&Note{ID: 1, Text: "broken"}).WherePK().Exec(t.Context())
		require.NoError(t, err)
		f.deliver(save(1, 0, "right"))
		require.Equal(t, map[int64]string{1: "broken"}, f.notes(), "a duplicate repairs nothing")

		f.deliver(msg(envelope.Sync, 1, 0, `"text":"right"`))
		require.Equal(t, map[int64]string{1: "right"}, f.notes())
	})
}

func TestForcedSyncTakesTheReplicaBack(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixture(t, db)
		mirror[Note](f, "note")
		f.deliver(save(1, 7, "lost with the master's disk"))
		restored := msg(envelope.Sync, 1, 3, `"text":"from the backup"`)
		f.deliver(restored)
		require.Equal(t, map[int64]string{1: "lost with the master's disk"}, f.notes())
		restored.Force = true
		f.deliver(restored)
		require.Equal(t, map[int64]string{1: "from the backup"}, f.notes())
		f.deliver(save(1, 4, "and on"))
		require.Equal(t, map[int64]string{1: "and on"}, f.notes())
	})
}
