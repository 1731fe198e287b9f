package converge_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/transport"
)

// losing loses two messages of a hundred, whatever they are.
func losing(seed uint64) func(transport.Outgoing) bool {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(seed, 24))
	return func(transport.Outgoing) bool {
		mu.Lock()
		defer mu.Unlock()
		return r.IntN(50) == 0
	}
}

// restorable copies what the replica has now, and returns what brings it back.
func (v *verified) restorable() (restore func()) {
	tables := []string{"customers", "replica_revisions"}
	for _, table := range tables {
		v.exec(v.copies, "CREATE TABLE ? AS SELECT * FROM ?", bun.Ident("old_"+table), bun.Ident(table))
	}
	return func() {
		require.NoError(v, v.copies.RunInTx(v.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			for _, table := range tables {
				if _, err := tx.ExecContext(ctx, "DELETE FROM ?", bun.Ident(table)); err != nil {
					return err
				}
				_, err := tx.ExecContext(ctx, "INSERT INTO ? SELECT * FROM ?", bun.Ident(table), bun.Ident("old_"+table))
				if err != nil {
					return err
				}
			}
			return nil
		}))
	}
}

// changeAll changes and deletes customers at random.
func (v *verified) changeAll(r *rand.Rand, n int) {
	for range n {
		id := r.Int64N(300) + 1
		if r.IntN(5) > 0 {
			v.save(&Customer{ID: id, Name: fmt.Sprint(r.Int64())})
			continue
		}
		require.NoError(v, v.box.RunInTx(v.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			_, err := tx.NewDelete().Model(&Customer{ID: id}).WherePK().Exec(ctx)
			return err
		}))
	}
}

// Whatever is lost, spoilt or restored, heals without a command, and is counted.
func TestAllHealsByItself(t *testing.T) {
	each(t, func(s *system) {
		const seed = 7
		r := rand.New(rand.NewPCG(seed, seed))
		s.drop = losing(seed)
		v := verify(s, converge.ReporterConfig{Content: []string{"customer"}})
		s.save(customers(1, 300)...)
		v.equal("customer")
		restore := v.restorable()

		v.changeAll(r, 100)
		v.exec(s.copies, "UPDATE customers SET name = 'spoilt' WHERE id BETWEEN 10 AND 12")
		v.exec(s.copies, "DELETE FROM customers WHERE id BETWEEN 20 AND 25")
		v.exec(s.copies, "INSERT INTO customers (id, name) VALUES (9001, 'x'), (9002, 'y')")
		v.exec(s.copies, "DELETE FROM replica_revisions WHERE model = 'customer' AND ? IN ('30', '31')", bun.Ident("key"))
		v.changeAll(r, 100)
		v.healed()
		asked := v.reporter.Reported().Asked
		for _, how := range []string{"missing", "content", "extra"} {
			require.Positive(s, asked[how], "%s of %v", how, asked)
		}
		require.Positive(s, v.reporter.Reported().Deleted)

		restore()
		v.changeAll(r, 20)
		v.healed()
		require.Greater(s, v.reporter.Reported().Asked["behind"], asked["behind"])
	})
}

// healed waits until a pass has found all equal that began after now, and makes sure.
func (v *verified) healed() {
	v.Helper()
	now, err := v.registry.Now(v.Context())
	require.NoError(v, err)
	if !pollUntil(v.system, 3*time.Minute, func() bool { return v.of("customer").Through.After(now) }) {
		v.Fatalf("not healed: %+v", v.of("customer"))
	}
	require.Equal(v, v.names(v.master), v.names(v.copies))
}

func TestAVerificationIsAskedFor(t *testing.T) {
	each(t, func(s *system) {
		answerer := s.answerer(converge.AnswererConfig{VerifyEvery: -1, Queues: map[string][]string{"stats": nil}})
		s.runs(answerer.Run)
		s.runs(s.relay(answerer.KeepQueues).Run)
		s.save(customers(1, 20)...)
		rep := s.replica("stats")
		reporter := s.verifying(rep, converge.ReporterConfig{})
		s.runs(func(ctx context.Context) error { return rep.Run(ctx, s.broker.Subscriber("stats")) })
		s.runs(reporter.Run)
		s.eventually("the replica is known", func() bool {
			known := s.known("stats")
			return known != nil && known.LagSeconds != nil
		})
		s.eventually("it has all", func() bool { return s.has(&Customer{ID: 20}) })
		require.Empty(s, s.known("stats").Models[0].Verified, "nobody asked")

		results := s.verifyNow()
		require.Len(s, results, 2)
		for _, result := range results {
			require.Equal(s, string(registry.Equal), result.Outcome, "%+v", result)
		}
		_, err := s.copies.ExecContext(s.Context(), "DELETE FROM customers WHERE id = 7")
		require.NoError(s, err)
		results = s.verifyNow("customer")
		require.Equal(s, string(registry.Repaired), results[0].Outcome, "%+v", results)
		require.Equal(s, map[string]int64{"missing": 1}, results[0].Found)
		s.eventually("it is there again", func() bool { return s.has(&Customer{ID: 7}) })
		require.NotNil(s, s.known("stats").Models[0].EqualThrough)

		_, err = s.admin.Verify(s.Context(), "stats", []string{"nothing"})
		require.ErrorContains(s, err, `does not verify the model "nothing"`)
		_, err = s.admin.Verify(s.Context(), "nobody", nil)
		require.ErrorContains(s, err, `no replica "nobody" is known`)
	})
}
