package converge_test

import (
	"context"
	"fmt"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/converge"
	"github.com/cqrsync/cqrsync/internal/boxed"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/operate/admin"
	"github.com/cqrsync/cqrsync/replica"
)

const (
	grace = 200 * time.Millisecond
	every = 500 * time.Millisecond
)

// verified is a system whose replica is compared with its master all the time.
type verified struct {
	*system

	rep      *replica.Replica
	reporter *converge.Reporter
	registry *registry.Registry
}

func verify(s *system, config converge.ReporterConfig) *verified {
	s.Helper()
	return verifyWith(s, s.replica("stats"), config)
}

func verifyWith(s *system, rep *replica.Replica, config converge.ReporterConfig) *verified {
	answerer := s.answerer(converge.AnswererConfig{
		VerifyEvery: every, Queues: map[string][]string{"stats": nil},
	})
	s.runs(answerer.Run)
	s.runs(s.relay(answerer.KeepQueues).Run)
	v := &verified{system: s, rep: rep, registry: registry.New(boxed.Of(s.box).Own())}
	v.reporter = s.verifying(v.rep, config)
	s.runs(func(ctx context.Context) error { return v.rep.Run(ctx, s.broker.Subscriber("stats")) })
	s.runs(v.reporter.Run)
	return v
}

func (s *system) verifying(rep *replica.Replica, config converge.ReporterConfig) *converge.Reporter {
	config.Pace, config.Grace, config.Logger = pace, grace, quiet
	publisher := s.broker.Publisher()
	publisher.RequireQueue = true
	r, err := converge.NewReporter(rep, publisher, config)
	require.NoError(s, err)
	return r
}

// of is how far the verification of a model has come.
func (v *verified) of(model string) registry.Verification {
	v.Helper()
	all, err := v.registry.Verifications(v.Context())
	require.NoError(v, err)
	for _, one := range all {
		if one.Model == model {
			return one
		}
	}
	return registry.Verification{}
}

// equal waits for a pass that begins after now and finds all equal.
func (v *verified) equal(models ...string) {
	v.Helper()
	now, err := v.registry.Now(v.Context())
	require.NoError(v, err)
	for _, model := range models {
		if !pollUntil(v.system, 2*time.Minute, func() bool { return v.of(model).Through.After(now) }) {
			v.Fatalf("%s is not equal: %+v, of which the pass is %+v, asked for %v", model, v.of(model), v.of(model).Pass,
				v.reporter.Reported().Asked)
		}
	}
}

// verifyNow has a model compared. On a busy machine the replica may seem to be silent for a moment.
func (s *system) verifyNow(models ...string) (results []admin.Verification) {
	s.Helper()
	s.eventuallyIn(time.Minute, "it is compared", func() bool {
		var err error
		results, err = s.admin.Verify(s.Context(), "stats", models)
		if err != nil {
			require.ErrorContains(s, err, "is silent")
		}
		return err == nil
	})
	return results
}

func pollUntil(s *system, most time.Duration, is func() bool) bool {
	deadline := time.NewTimer(most)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return is()
		case <-s.Context().Done():
			return false
		}
	}
	return true
}

func customers(from, to int64) (rows []any) {
	for id := from; id <= to; id++ {
		rows = append(rows, &Customer{ID: id, Name: fmt.Sprint("customer ", id)})
	}
	return rows
}

func (v *verified) exec(on *bun.DB, query string, args ...any) {
	v.Helper()
	_, err := on.ExecContext(v.Context(), query, args...)
	require.NoError(v, err)
}

func (v *verified) names(of *bun.DB) map[int64]string {
	v.Helper()
	var all []Customer
	require.NoError(v, of.NewSelect().Model(&all).Scan(v.Context()))
	names := map[int64]string{}
	for _, c := range all {
		names[c.ID] = c.Name
	}
	return names
}
