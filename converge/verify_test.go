package converge_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/admin"
)

func TestAReplicaIsProvenEqual(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 300)...)
		v := verify(s, converge.ReporterConfig{})
		s.save(&Order{ID: 1, CustomerID: 1, Status: "new"})
		v.equal("customer", "order")
		last := v.of("customer").Last
		require.Equal(s, registry.Equal, last.Outcome)
		require.Equal(s, int64(300), last.Keys)
		require.Empty(s, v.reporter.Reported().Asked)
	})
}

func TestWhatIsDoneBehindAReplicaHeals(t *testing.T) {
	ledger := "replica_revisions"
	cases := map[string]struct {
		how   string
		spoil func(v *verified)
	}{
		"a row is removed": {"missing", func(v *verified) { v.exec(v.copies, "DELETE FROM customers WHERE id = 7") }},
		"a row of the ledger, too": {"missing", func(v *verified) {
			v.exec(v.copies, "DELETE FROM customers WHERE id = 7")
			v.exec(v.copies, "DELETE FROM ? WHERE model = 'customer' AND ? = '7'", bun.Ident(ledger), bun.Ident("key"))
		}},
		"a row is added": {"extra", func(v *verified) { v.exec(v.copies, "INSERT INTO customers (id, name) VALUES (9007, 'x')") }},
		"a row of the ledger is removed": {"missing extra", func(v *verified) {
			v.exec(v.copies, "DELETE FROM ? WHERE model = 'customer' AND ? = '7'", bun.Ident(ledger), bun.Ident("key"))
		}},
		"a ledger says less": {"behind", func(v *verified) {
			v.exec(v.copies, "UPDATE ? SET revision = 0 WHERE model = 'customer' AND ? = '7'", bun.Ident(ledger), bun.Ident("key"))
		}},
		"a row of the ledger is added": {"extra", func(v *verified) {
			v.exec(v.copies, "INSERT INTO customers (id, name) VALUES (9007, 'x')")
			v.exec(v.copies, "INSERT INTO ? (model, ?, revision) VALUES ('customer', '9007', 3)", bun.Ident(ledger), bun.Ident("key"))
		}},
		"a tombstone has a row": {"extra", func(v *verified) {
			v.exec(v.copies, "INSERT INTO customers (id, name) VALUES (8, 'customer 8')")
		}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			each(t, func(s *system) {
				s.save(customers(1, 300)...)
				s.save(&Customer{ID: 7, Name: "changed"})
				require.NoError(s, s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
					_, err := tx.NewDelete().Model(&Customer{ID: 8}).WherePK().Exec(ctx)
					return err
				}))
				v := verify(s, converge.ReporterConfig{})
				v.equal("customer")
				require.Empty(s, v.reporter.Reported().Asked)
				c.spoil(v)
				v.equal("customer")
				asked := int64(0)
				for _, how := range strings.Fields(c.how) { // which one is found first is open
					asked += v.reporter.Reported().Asked[how]
				}
				require.Positive(s, asked, "%v", v.reporter.Reported())
				require.Equal(s, v.names(s.master), v.names(s.copies))
			})
		})
	}
}

func TestAReplicaThatOnlyReportsChangesNothing(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 200)...)
		v := verify(s, converge.ReporterConfig{Verify: converge.ReportOnly})
		v.equal("customer")
		v.exec(s.copies, "DELETE FROM customers WHERE id = 7")
		v.exec(s.copies, "INSERT INTO customers (id, name) VALUES (9007, 'x')")
		s.eventuallyIn(time.Minute, "it is reported", func() bool {
			last := v.of("customer").Last
			return last != nil && last.Found["missing"] == 1 && last.Found["extra"] == 1
		})
		require.Equal(s, registry.Differs, v.of("customer").Last.Outcome)
		require.Empty(s, v.reporter.Reported().Asked)
		require.NotEqual(s, v.names(s.master), v.names(s.copies))
		s.says("a replica is restored, or made anew")
	})
}

// What a diff would not delete unasked, nothing deletes.
func TestMuchIsNotDeleted(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 200)...)
		v := verify(s, converge.ReporterConfig{})
		v.equal("customer")
		v.exec(s.copies, "INSERT INTO customers (id, name) SELECT id + 5000, name FROM customers WHERE id <= 150")
		s.eventuallyIn(time.Minute, "they are found", func() bool {
			last := v.of("customer").Last
			return last != nil && last.Found["extra"] == 150 && last.Outcome == registry.Differs
		})
		first := v.of("customer").Last.ID // after which they would have been deleted
		s.eventuallyIn(time.Minute, "and once more", func() bool {
			last := v.of("customer").Last
			return last.ID != first && last.Found["extra"] == 150
		})
		require.Len(s, v.names(s.copies), 350)
		require.Zero(s, v.reporter.Reported().Deleted)
	})
}

// A replica that was ahead is not thrown back by itself.
func TestAReplicaAheadIsReported(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 200)...)
		v := verify(s, converge.ReporterConfig{})
		v.equal("customer")
		old := db.Choose[any](boxed.Of(s.box).Own(), "2026-01-01 00:00:00+00", 1, 1)
		v.exec(s.copies, "UPDATE ? SET revision = 9, updated_at = ? WHERE model = 'customer' AND ? = '7'",
			bun.Ident("replica_revisions"), old, bun.Ident("key"))
		s.eventuallyIn(time.Minute, "it is found", func() bool { return v.of("customer").Last.Found["ahead"] == 1 })
		require.Equal(s, registry.Differs, v.of("customer").Last.Outcome)
		require.Empty(s, v.reporter.Reported().Asked)
	})
}

// A backup of the master is older than what its replica has: its tables and its outbox go back.
func TestAMasterThatIsRestoredIsSaidToHaveGoneBack(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 20)...)
		v := verify(s, converge.ReporterConfig{})
		v.equal("customer")
		restore := dbtest.BackUpOutbox(s, s.master)
		v.exec(s.master, "CREATE TABLE backup_customers AS SELECT * FROM customers")
		for _, name := range []string{"lost", "lost too"} {
			s.save(&Customer{ID: 7, Name: name})
		}
		s.eventually("it is there", func() bool { return v.names(s.copies)[7] == "lost too" })
		restore()
		past := bun.NewDB(s.master.DB, s.master.Dialect()) // who restores captures nothing
		v.exec(past, "DELETE FROM customers")
		v.exec(past, "INSERT INTO customers SELECT * FROM backup_customers")
		s.says("the master is restored from a backup")
		copies, err := admin.Open(s.copies, admin.Config{})
		require.NoError(s, err)
		s.save(&Customer{ID: 7, Name: "new"}) // in a revision that the replica has had
		runbook.WillSay(s, "the master is restored from a backup", func() string {
			return runbook.Status(s, copies, "--side", "replica")
		})
	})
}

func TestContentHeals(t *testing.T) {
	each(t, func(s *system) {
		s.save(customers(1, 300)...)
		s.save(&Order{ID: 1, CustomerID: 1, Status: "new"})
		v := verify(s, converge.ReporterConfig{Content: []string{"customer", "order"}})
		v.equal("customer", "order")
		require.Empty(s, v.reporter.Reported().Asked)
		v.exec(s.copies, "UPDATE customers SET name = 'spoilt' WHERE id IN (7, 200)")
		v.exec(s.copies, "UPDATE order_copies SET status = 'spoilt'")
		v.equal("customer", "order")
		asked := v.reporter.Reported().Asked
		require.GreaterOrEqual(s, asked["content"], int64(3)) // the next pass may come before the repair
		require.Len(s, asked, 1)
		require.Equal(s, v.names(s.master), v.names(s.copies))
	})
}

// slowed says that the race detector makes SQLite, which is Go, ten times as slow.
var slowed bool

// An untouched system is not repaired, however much is written.
func TestNothingIsRepairedWhereNothingIsWrong(t *testing.T) {
	if slowed {
		t.Skip("a replica that cannot keep up is silent: .ci/run has it without the race detector")
	}
	each(t, func(s *system) {
		s.save(customers(1, 2000)...)
		v := verify(s, converge.ReporterConfig{})
		writing, stop := context.WithCancel(s.Context())
		var written atomic.Int64
		done := s.runs(func(context.Context) error { return s.writeSteadily(writing, &written) })
		s.eventuallyIn(time.Minute, "the replica is known", func() bool { return v.of("customer").Last != nil })
		for range 10 {
			before, began := written.Load(), time.Now()
			results := s.verifyNow("customer")
			require.Equal(s, string(registry.Equal), results[0].Outcome, "%+v", results)
			s.eventuallyIn(time.Minute, "more is written", func() bool {
				return written.Load()-before >= writesPerSecond/2
			})
			wrote := written.Load() - before
			s.Logf("%s beside %d writes, %.0f a second", results[0].Ended.Sub(results[0].Started), wrote,
				float64(wrote)/time.Since(began).Seconds())
		}
		stop()
		done()
		require.Empty(s, v.reporter.Reported().Asked)
		s.Logf("%d writes", written.Load())
		v.equal("customer")
		require.Equal(s, v.names(s.master), v.names(s.copies))
	})
}

const writesPerSecond = 500

// writeSteadily changes, adds and removes customers, writesPerSecond where the machine allows it: what
// it is late with it makes up for.
func (s *system) writeSteadily(ctx context.Context, written *atomic.Int64) error {
	r := rand.New(rand.NewPCG(1, 2))
	began, added, removed := time.Now(), int64(2000), int64(2000)
	for pause := time.NewTimer(0); ; pause.Reset(20 * time.Millisecond) {
		select {
		case <-ctx.Done():
			pause.Stop()
			return nil
		case <-pause.C:
		}
		due := int64(time.Since(began).Seconds()*writesPerSecond) - written.Load()
		ids := map[int64]bool{}
		for range min(due, 100) {
			ids[r.Int64N(2000)+1] = true
		}
		changed := make([]*Customer, 0, len(ids)+3)
		for _, id := range slices.Sorted(maps.Keys(ids)) {
			changed = append(changed, &Customer{ID: id, Name: fmt.Sprint(r.Int64())})
		}
		var gone []*Customer
		for range 3 {
			added++
			changed = append(changed, &Customer{ID: added, Name: "new"})
			if added-removed > 200 {
				removed++
				gone = append(gone, &Customer{ID: removed})
			}
		}
		err := s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			err := upsert(ctx, tx, changed)
			if err == nil && len(gone) > 0 {
				_, err = tx.NewDelete().Model(&gone).WherePK().Exec(ctx)
			}
			return err
		})
		if err != nil {
			return err
		}
		written.Add(int64(len(changed) + len(gone)))
	}
}

// upsert writes customers in one statement where the database has one whose rows can be told.
func upsert(ctx context.Context, tx bun.Tx, rows []*Customer) error {
	if tx.Dialect().Name() != dialect.MySQL {
		_, err := tx.NewInsert().Model(&rows).On("CONFLICT (id) DO UPDATE").Set("name = EXCLUDED.name").Exec(ctx)
		return err
	}
	var added []*Customer
	for _, row := range rows {
		if row.ID > 2000 {
			added = append(added, row)
		} else if _, err := tx.NewUpdate().Model(row).WherePK().Exec(ctx); err != nil {
			return err
		}
	}
	_, err := tx.NewInsert().Model(&added).Exec(ctx)
	return err
}

func (s *system) eventuallyIn(most time.Duration, what string, is func() bool) {
	s.Helper()
	if !pollUntil(s, most, is) {
		s.Fatalf("%s: did not happen in %s", what, most)
	}
}
