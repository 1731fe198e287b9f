package converge_test

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/runbook"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/outbox"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pace is how often both sides speak in these tests.
const pace = 100 * time.Millisecond

var quiet = slog.New(slog.DiscardHandler)

// Customer and Order are a parent and its child.
type Customer struct {
	bun.BaseModel `bun:"table:customers"`

	ID   int64 `bun:",pk"`
	Name string
}

type Order struct {
	bun.BaseModel `bun:"table:orders"`

	ID         int64 `bun:",pk"`
	CustomerID int64
	Status     string
}

// OrderCopy points to a customer that must be there.
type OrderCopy struct {
	bun.BaseModel `bun:"table:order_copies"`

	ID         int64     `bun:",pk"`
	CustomerID int64     `bun:",notnull"`
	Customer   *Customer `bun:"rel:belongs-to,join:customer_id=id"`
	Status     string
}

// system is a master with its relay, and a replica, which talk to each other over a broker in memory.
type system struct {
	*testing.T
	master, copies *bun.DB
	box            *outbox.Box
	broker         *memory.Broker
	drop           func(transport.Outgoing) bool // what the broker loses
	tables         *admin.Tables
	admin          *admin.Master
}

// each runs test on every kind of database.
func each(t *testing.T, test func(s *system)) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(newSystem(t, dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t))))
		})
	}
}

// newSystem makes one. options are those of the customers.
func newSystem(t *testing.T, master, copies *bun.DB, options ...outbox.Option) *system {
	s := &system{T: t, master: master, copies: copies, broker: memory.New()}
	for _, table := range []any{(*Customer)(nil), (*Order)(nil)} {
		_, err := master.NewCreateTable().Model(table).Exec(t.Context())
		require.NoError(t, err)
	}
	_, err := copies.NewCreateTable().Model((*Customer)(nil)).Exec(t.Context())
	require.NoError(t, err)
	_, err = copies.NewCreateTable().Model((*OrderCopy)(nil)).WithForeignKeys().Exec(t.Context())
	require.NoError(t, err)
	s.box, err = outbox.New(master, outbox.Config{Logger: quiet})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.box.Close()) })
	require.NoError(t, outbox.Register[Customer](s.box, "customer", options...))
	require.NoError(t, outbox.Register[Order](s.box, "order"))
	require.NoError(t, s.box.Migrate(t.Context()))
	s.tables, err = admin.Open(master, admin.Config{})
	require.NoError(t, err)
	s.admin, err = s.tables.Master(t.Context())
	require.NoError(t, err)
	return s
}

// lossy loses what drop says.
type lossy struct {
	transport.BatchPublisher

	s *system
}

func (l lossy) PublishBatch(ctx context.Context, batch []transport.Outgoing) []error {
	var kept []transport.Outgoing
	for _, out := range batch {
		if l.s.drop == nil || !l.s.drop(out) {
			kept = append(kept, out)
		}
	}
	errs := make([]error, len(batch))
	for i, err := range l.BatchPublisher.PublishBatch(ctx, kept) {
		errs[i] = err
	}
	return errs
}

func (s *system) answerer(config converge.AnswererConfig) *converge.Answerer {
	config.Pace, config.Logger = pace, quiet
	a, err := converge.NewAnswerer(s.box, converge.Broker{
		Publisher: lossy{s.broker.Publisher(), s},
		Inbox:     func() (message.Subscriber, error) { return s.broker.Subscriber(""), nil },
		Queue:     func(name string) (converge.Queue, error) { return s.broker.Subscriber(name), nil },
	}, config)
	require.NoError(s, err)
	return a
}

func (s *system) relay(before func(context.Context) error) *relay.Relay {
	rel, err := relay.New(s.master, lossy{s.broker.Publisher(), s}, relay.Config{
		Logger: quiet, PollInterval: 10 * time.Millisecond, Before: before, Wake: s.box.Wake(),
	})
	require.NoError(s, err)
	return rel
}

func (s *system) replica(queue string) *replica.Replica {
	rep, err := replica.New(s.copies, replica.Config{
		Queue: queue, Logger: quiet, WaitForMissing: 200 * time.Millisecond,
	})
	require.NoError(s, err)
	require.NoError(s, replica.Register[Customer](rep, "customer"))
	require.NoError(s, replica.Register[OrderCopy](rep, "order"))
	require.NoError(s, rep.Migrate(s.Context()))
	return rep
}

func (s *system) reporter(rep *replica.Replica) *converge.Reporter {
	publisher := s.broker.Publisher()
	publisher.RequireQueue = true
	r, err := converge.NewReporter(rep, publisher, converge.ReporterConfig{
		Pace: pace, Verify: converge.NoVerify, Logger: quiet,
	})
	require.NoError(s, err)
	return r
}

// runs starts something that runs until the test or the returned function ends it.
func (s *system) runs(run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(s.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := run(ctx); err != nil && s.Context().Err() == nil {
			s.Errorf("ended with %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	s.Cleanup(stop)
	return stop
}

// runReplica starts a replica and its reporter.
func (s *system) runReplica(queue string) (*replica.Replica, *converge.Reporter) {
	rep := s.replica(queue)
	reporter := s.reporter(rep)
	s.runs(func(ctx context.Context) error { return rep.Run(ctx, s.broker.Subscriber(queue)) })
	s.runs(reporter.Run)
	select {
	case <-rep.Running():
	case <-time.After(10 * time.Second):
		s.Fatal("the replica does not run")
	}
	return rep, reporter
}

// save writes rows at the master. Many are new ones, of customers.
func (s *system) save(rows ...any) {
	s.Helper()
	require.NoError(s, s.box.RunInTx(s.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
		if len(rows) > 20 {
			all := make([]*Customer, len(rows))
			for i, row := range rows {
				all[i] = row.(*Customer)
			}
			_, err := tx.NewInsert().Model(&all).Exec(ctx)
			return err
		}
		for _, row := range rows {
			there, err := tx.NewSelect().Model(row).WherePK().Exists(ctx)
			if err == nil && there {
				_, err = tx.NewUpdate().Model(row).WherePK().Exec(ctx)
			} else if err == nil {
				_, err = tx.NewInsert().Model(row).Exec(ctx)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// eventually fails the test where something does not become true in time.
func (s *system) eventually(what string, is func() bool) {
	s.Helper()
	require.Eventually(s, is, time.Minute, 20*time.Millisecond, what)
}

func (s *system) known(queue string) *admin.KnownReplica {
	s.Helper()
	all, err := s.admin.Replicas(s.Context())
	require.NoError(s, err)
	for i := range all {
		if all[i].Queue == queue {
			return &all[i]
		}
	}
	return nil
}

// says waits until relay status says of a scenario what docs/operations.md promises.
func (s *system) says(scenario string, flags ...string) {
	s.Helper()
	runbook.WillSay(s, scenario, func() string { return runbook.Status(s, s.tables, flags...) })
}

func (s *system) has(row any) bool {
	s.Helper()
	there, err := s.copies.NewSelect().Model(row).WherePK().Exists(s.Context())
	require.NoError(s, err)
	return there
}
