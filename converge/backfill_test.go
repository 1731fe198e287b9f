package converge_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/replica"
)

// before writes rows at the master that were there before cqrsync.
func (s *system) before(customers, orders int) {
	s.Helper()
	db := bun.NewDB(s.master.DB, s.master.Dialect()) // nothing captures here
	var parents []Customer
	for i := range customers {
		parents = append(parents, Customer{ID: int64(i + 1), Name: fmt.Sprint("customer ", i+1)})
	}
	var children []Order
	for i := range orders {
		children = append(children, Order{ID: int64(i + 1), CustomerID: int64(i%customers + 1), Status: "old"})
	}
	for _, rows := range []any{&parents, &children} {
		_, err := db.NewInsert().Model(rows).Exec(s.Context())
		require.NoError(s, err)
	}
}

// patiently is eventually for what takes its time on a busy machine.
func (s *system) patiently(what string, is func() bool) {
	s.Helper()
	require.Eventually(s, is, time.Minute, 20*time.Millisecond, what)
}

func (s *system) filler(rep *replica.Replica) *converge.Reporter {
	publisher := s.broker.Publisher()
	publisher.RequireQueue = true
	r, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{
		Pace: pace, Logger: quiet, Backfill: converge.IfEmpty,
	})
	require.NoError(s, err)
	return r
}

// fills starts a process of a replica that asks for what it has nothing of.
func (s *system) fills(queue string) (rep *replica.Replica, stop func()) {
	rep = s.replica(queue)
	reporter := s.filler(rep)
	stopReplica := s.runs(func(ctx context.Context) error { return rep.Run(ctx, s.broker.Subscriber(queue)) })
	stopReporter := s.runs(reporter.Run)
	return rep, func() { stopReporter(); stopReplica() }
}

// equal says that the replica has what the master has.
func (s *system) equal() bool {
	s.Helper()
	var customers, customerCopies []Customer
	var orders []Order
	var copies []OrderCopy
	for db, models := range map[*bun.DB][]any{s.master: {&customers, &orders}, s.copies: {&customerCopies, &copies}} {
		for _, model := range models {
			require.NoError(s, db.NewSelect().Model(model).OrderExpr("id").Scan(s.Context()))
		}
	}
	if len(orders) != len(copies) || len(customers) != len(customerCopies) {
		return false
	}
	for i, o := range orders {
		if c := copies[i]; c.ID != o.ID || c.CustomerID != o.CustomerID || c.Status != o.Status {
			return false
		}
	}
	for i, c := range customers {
		if c != customerCopies[i] {
			return false
		}
	}
	return true
}

// done says that so many models of a queue have been backfilled.
func (s *system) done(queue string, models int) bool {
	s.Helper()
	n, err := s.copies.NewSelect().TableExpr("replica_backfills").
		Where("queue = ? AND done_at IS NOT NULL", queue).Count(s.Context())
	require.NoError(s, err)
	return n == int64(models)
}

func TestAnEmptyReplicaIsFilledOnce(t *testing.T) {
	for _, first := range []string{"master", "replica"} {
		t.Run(first, func(t *testing.T) {
			each(t, func(s *system) {
				s.before(50, 1000)
				answerer := s.answerer(converge.AnswererConfig{})
				var stop func()
				start := map[string]func(){
					"master":  func() { s.runs(answerer.Run); s.runs(s.relay(answerer.KeepQueues).Run) },
					"replica": func() { _, stop = s.fills("stats") },
				}
				start[first]()
				delete(start, first)
				for _, other := range start {
					other()
				}
				s.patiently("both models have come", func() bool { return s.done("stats", 2) })
				require.True(s, s.equal())
				stop()

				_, err := bun.NewDB(s.copies.DB, s.copies.Dialect()).NewDelete().Model((*OrderCopy)(nil)).
					Where("id > 0").Exec(s.Context())
				require.NoError(s, err)
				sent := s.backfilled("stats", "order")
				s.fills("stats")
				s.patiently("it reports again", func() bool { return !s.known("stats").Silent })
				s.save(&Customer{ID: 99, Name: "new"})
				s.patiently("what changes comes", func() bool { return s.has(&Customer{ID: 99}) })
				require.Equal(s, sent, s.backfilled("stats", "order"), "it is not asked for again")
			})
		})
	}
}

// backfilled is what the master's table has of a backfill.
func (s *system) backfilled(queue, model string) (row struct {
	ID, Filter string
	Sent, Bad  int64
	Total      *int64
	Error      string
	Finished   bool
}) {
	s.Helper()
	require.NoError(s, s.master.NewSelect().TableExpr("outbox_backfills").
		ColumnExpr("id, filter, sent, bad, total, error, finished_at IS NOT NULL AS finished").
		Where("queue = ? AND model = ?", queue, model).Scan(s.Context(), &row))
	return row
}

func TestRowsOrAPastKeepAReplicaFromAsking(t *testing.T) {
	each(t, func(s *system) {
		s.before(3, 10)
		rep := s.replica("stats")
		// A row of its own in one table, and a live key without a row in the ledger of the other.
		_, err := s.copies.NewInsert().Model(&Customer{ID: 1000, Name: "own"}).Exec(s.Context())
		require.NoError(s, err)
		_, err = s.copies.ExecContext(s.Context(), "INSERT INTO replica_revisions (model, "+
			string(s.copies.QueryGen().AppendName(nil, "key"))+", revision) VALUES ('order', '1', 1)")
		require.NoError(s, err)
		reporter := s.filler(rep)
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		s.runs(func(ctx context.Context) error { return rep.Run(ctx, s.broker.Subscriber("stats")) })
		s.runs(reporter.Run)
		s.patiently("a heartbeat came back", func() bool {
			known := s.known("stats")
			return known != nil && known.LagSeconds != nil
		})
		for db, table := range map[*bun.DB]string{s.copies: "replica_backfills", s.master: "outbox_backfills"} {
			n, err := db.NewSelect().TableExpr(table).Count(s.Context())
			require.NoError(s, err)
			require.Zero(s, n, table)
		}
	})
}

func TestTwoProcessesAskForOneBackfill(t *testing.T) {
	each(t, func(s *system) {
		s.before(5, 800)
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.runs(s.answerer(converge.AnswererConfig{}).Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		s.fills("stats")
		s.fills("stats")
		s.patiently("both models have come", func() bool { return s.done("stats", 2) })
		s.patiently("all is there", s.equal)
		row := s.backfilled("stats", "order")
		require.Equal(s, int64(800), row.Sent)
		s.patiently("it is asked whether they are equal now", func() bool {
			n, err := s.master.NewSelect().TableExpr("outbox_verifications").
				Where("model = 'order' AND state LIKE '%\"asked\"%'").Count(s.Context())
			require.NoError(s, err)
			return n == 1
		})
		require.True(s, row.Finished)
	})
}

// What changes meanwhile, before and behind where the backfill is, comes on its own way. The gate
// decides.
func TestABackfillBesideLiveWrites(t *testing.T) {
	each(t, func(s *system) {
		s.before(20, 1000)
		answerer := s.answerer(converge.AnswererConfig{})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		s.fills("stats")
		over := func() bool { return s.done("stats", 2) }
		deadline := time.Now().Add(40 * time.Second)
		for i := int64(0); !over() && time.Now().Before(deadline); i++ {
			s.save(&Order{ID: 1 + i*7%1000, CustomerID: 1 + i%20, Status: fmt.Sprint("new ", i)},
				&Order{ID: 5000 + i, CustomerID: 1, Status: "added"})
			require.NoError(s, s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
				_, err := tx.NewDelete().Model(&Order{ID: 1 + i*13%1000}).WherePK().Exec(ctx)
				return err
			}))
		}
		require.True(s, over())
		s.patiently("they are equal", s.equal)
	})
}

func TestBackfillsOfTwoReplicasAtOnce(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	s.before(5, 800)
	other := &system{T: t, master: s.master, copies: dbtest.Open(t, dbtest.SQLiteURL(t)), box: s.box,
		broker: s.broker, admin: s.admin}
	_, err := other.copies.NewCreateTable().Model((*Customer)(nil)).Exec(t.Context())
	require.NoError(t, err)
	_, err = other.copies.NewCreateTable().Model((*OrderCopy)(nil)).WithForeignKeys().Exec(t.Context())
	require.NoError(t, err)
	answerer := s.answerer(converge.AnswererConfig{})
	s.runs(answerer.Run)
	s.runs(s.relay(answerer.KeepQueues).Run)
	s.fills("stats")
	other.fills("webhooks")
	s.patiently("one is full", func() bool { return s.done("stats", 2) && s.equal() })
	s.patiently("so is the other", func() bool { return other.done("webhooks", 2) && other.equal() })
}

func TestAnOperatorOrdersABackfill(t *testing.T) {
	each(t, func(s *system) {
		s.before(3, 300)
		answerer := s.answerer(converge.AnswererConfig{})
		ctx := s.Context()
		order := converge.Backfill{Queue: "stats", Model: "order", Filter: `{"id__lte":100}`}
		require.ErrorContains(s, answerer.OrderBackfill(ctx, order), "no queue of that name")
		for _, wrong := range []converge.Backfill{
			{Model: "order"}, {Queue: "stats", Model: "nothing"}, {Queue: "stats", Model: "order", Rate: -1},
			{Queue: "stats", Model: "order", Filter: `{"nothing":1}`},
			{Queue: "stats", Model: "order", Filter: `[]`},
		} {
			require.Error(s, answerer.OrderBackfill(ctx, wrong), "%+v", wrong)
		}
		s.runs(answerer.Run)
		s.runReplica("stats")
		s.patiently("the replica is known", func() bool {
			known := s.known("stats")
			return known != nil && len(known.Models) == 2
		})
		require.NoError(s, answerer.OrderBackfill(ctx, converge.Backfill{Queue: "stats", Model: "customer"}))
		require.NoError(s, answerer.OrderBackfill(ctx, order))
		// One that does not answer replicas follows, or does it.
		now, err := s.answerer(converge.AnswererConfig{}).FollowBackfill(ctx, "stats", "order", nil)
		require.NoError(s, err)
		require.True(s, now.Done)
		require.Equal(s, int64(100), now.Sent)
		require.Equal(s, int64(100), now.Total)
		s.patiently("what was asked for is there", func() bool {
			n, err := s.copies.NewSelect().Model((*OrderCopy)(nil)).Count(ctx)
			require.NoError(s, err)
			return n == 100
		})
		state := s.known("stats").Models[1]
		require.Equal(s, "order", state.Model)
		require.Equal(s, admin.BackfillDone, state.Backfill.State)
		require.False(s, s.done("stats", 2), "a part is not all")
	})
}

func TestACommandDoesABackfillByItself(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	s.before(3, 500)
	s.runReplica("stats") // whose reports nobody takes
	alone := s.answerer(converge.AnswererConfig{})
	for _, model := range []string{"customer", "order"} {
		require.NoError(t, alone.OrderBackfill(t.Context(), converge.Backfill{Queue: "stats", Model: model}))
	}
	var told []int64
	_, err := alone.FollowBackfill(t.Context(), "stats", "order", func(now converge.BackfillProgress) {
		told = append(told, now.Sent)
	})
	require.NoError(t, err)
	require.Equal(t, int64(500), told[len(told)-1])
	s.patiently("all is there", s.equal)

	was, err := alone.CancelBackfill(t.Context(), "stats", "order")
	require.NoError(t, err)
	require.False(t, was, "it is over")
	require.NoError(t, alone.OrderBackfill(t.Context(), converge.Backfill{Queue: "stats", Model: "order"}))
	was, err = alone.CancelBackfill(t.Context(), "stats", "order")
	require.NoError(t, err)
	require.True(t, was)
	_, err = alone.FollowBackfill(t.Context(), "stats", "order", nil)
	require.ErrorContains(t, err, "cancelled")
}

func TestRowsThatCannotBeSentAreNamedAndTheOthersGoOn(t *testing.T) {
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	s.before(3, 500)
	_, err := s.master.DB.ExecContext(t.Context(), "UPDATE orders SET status = x'ff00ff' WHERE id IN (7, 444)")
	require.NoError(t, err)
	answerer := s.answerer(converge.AnswererConfig{})
	s.runs(answerer.Run)
	s.fills("stats")
	s.patiently("both models have come", func() bool { return s.done("stats", 2) })
	row := s.backfilled("stats", "order")
	require.Equal(t, []int64{498, 2}, []int64{row.Sent, row.Bad}, row.Error)
	require.Contains(t, row.Error, "key 444")
}

// A queue that nobody reads from takes so many messages and no more. What it is not bound to it would
// lose.
func TestAQueueThatNobodyReadsIsBoundAndNotFlooded(t *testing.T) {
	const most = 300
	s := newSystem(t, dbtest.Open(t, dbtest.SQLiteURL(t)), dbtest.Open(t, dbtest.SQLiteURL(t)))
	s.before(1, 1500)
	queue := s.broker.Subscriber("stats")
	t.Cleanup(func() { require.NoError(t, queue.Close()) })
	require.NoError(t, queue.KeepQueue(t.Context(), []string{"customer"}))
	answerer := s.answerer(converge.AnswererConfig{BackfillWaiting: most})
	s.runs(answerer.Run)
	for _, model := range []string{"customer", "order"} {
		require.NoError(t, answerer.OrderBackfill(t.Context(), converge.Backfill{Queue: "stats", Model: model}))
	}
	waiting := func() int64 {
		n, err := queue.Waiting(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, n, int64(most))
		return n
	}
	s.patiently("it is nearly full", func() bool { return waiting() > most-100 })
	deadline := time.Now().Add(3 * time.Second)
	require.Eventually(t, func() bool { waiting(); return time.Now().After(deadline) }, time.Minute, 50*time.Millisecond)
	s.runReplica("stats")
	s.patiently("all is there", s.equal)
}
