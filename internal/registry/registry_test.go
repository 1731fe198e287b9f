package registry_test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"go.uber.org/goleak"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/registry"
	"github.com/cqrsync/cqrsync/internal/tables"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func each(t *testing.T, test func(t *testing.T, r *registry.Registry)) {
	dbtest.Each(t, func(t *testing.T, bunDB *bun.DB) {
		d, err := db.New(bunDB, db.Names{})
		require.NoError(t, err)
		_, err = tables.New(d).Migrate(t.Context(), db.Outbox)
		require.NoError(t, err)
		test(t, registry.New(d))
	})
}

func report(queue, instance string, models ...string) registry.Report {
	return registry.Report{
		Queue: queue, Instance: instance, Models: models, Pace: 10 * time.Second, Text: []byte(`{"v":1}`),
	}
}

func TestReportsMakeReplicasKnown(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		all, _, err := r.Replicas(t.Context())
		require.NoError(t, err)
		require.Empty(t, all)
		for _, step := range []struct {
			report registry.Report
			isNew  bool
		}{
			{report("stats", "a", "order", "customer"), true},
			{report("stats", "a", "order", "customer"), false},
			{report("stats", "b", "order", "file"), true}, // a newer version, say
			{report("stats", "a", "order", "customer"), false},
			{report("Stats", "a", "order"), true}, // another queue, for RabbitMQ
		} {
			isNew, err := r.Note(t.Context(), step.report)
			require.NoError(t, err)
			require.Equal(t, step.isNew, isNew)
		}
		all, now, err := r.Replicas(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 2)
		stats := all[1]
		if stats.Queue != "stats" {
			stats = all[0]
		}
		require.Equal(t, []string{"customer", "file", "order"}, stats.Models)
		require.Len(t, stats.Instances, 2)
		require.JSONEq(t, `{"v":1}`, string(stats.Instances[0].Report))
		require.WithinDuration(t, now, stats.Reported, time.Minute)
		require.False(t, stats.SilentAt(now))
		require.True(t, stats.SilentAt(now.Add(31*time.Second)))
		_, known := stats.LagAt(now)
		require.False(t, known)

		forgotten, err := r.Forget(t.Context(), "stats")
		require.NoError(t, err)
		require.True(t, forgotten)
		all, _, err = r.Replicas(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		require.Equal(t, "Stats", all[0].Queue)
		require.Len(t, all[0].Instances, 1)
	})
}

func TestTheLagIsThatOfTheNewestHeartbeatThatCameBack(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		_, err := r.Note(t.Context(), report("stats", "a", "order"))
		require.NoError(t, err)
		now, err := r.Now(t.Context())
		require.NoError(t, err)
		note := func(sent, through, held time.Duration) {
			t.Helper()
			n := report("stats", "a", "order")
			n.Echo = &registry.Echo{Sent: now.Add(-sent), Through: now.Add(-through), Held: held}
			_, err := r.Note(t.Context(), n)
			require.NoError(t, err)
		}
		lag := func() time.Duration {
			t.Helper()
			all, now, err := r.Replicas(t.Context())
			require.NoError(t, err)
			lag, known := all[0].LagAt(now)
			require.True(t, known)
			return lag
		}
		note(20*time.Second, 25*time.Second, 15*time.Second) // it took 5 s, and 5 s before that
		require.InDelta(t, 10, lag().Seconds(), 5)
		note(10*time.Second, 10*time.Second, 10*time.Second)
		require.InDelta(t, 0, lag().Seconds(), 5)
		note(20*time.Second, 120*time.Second, 0) // of another process, an older one
		require.InDelta(t, 0, lag().Seconds(), 5)
		note(time.Second, time.Second, time.Hour) // a clock that is wrong makes no lag below 0
		require.GreaterOrEqual(t, lag(), time.Duration(0))

		mine, err := r.Beat(t.Context(), "stats", time.Second)
		require.NoError(t, err)
		require.True(t, mine)
		all, at, err := r.Replicas(t.Context())
		require.NoError(t, err)
		late, _ := all[0].LagAt(at.Add(10 * time.Minute))
		require.InDelta(t, 601, late.Seconds(), 10, "a heartbeat has not come back for ten minutes")
	})
}

func TestOneRelaySendsAHeartbeat(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		_, err := r.Note(t.Context(), report("stats", "a", "order"))
		require.NoError(t, err)
		var mine, sum sync.Map
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				is, err := r.Beat(t.Context(), "stats", time.Hour)
				if err != nil {
					sum.Store(i, err)
				}
				if is {
					mine.Store(i, true)
				}
			})
		}
		all.Wait()
		sum.Range(func(_, err any) bool { t.Error(err); return true })
		n := 0
		mine.Range(func(any, any) bool { n++; return true })
		require.Equal(t, 1, n)
		is, err := r.Beat(t.Context(), "nobody", time.Hour)
		require.NoError(t, err)
		require.False(t, is)
	})
}

func TestReportsAtTheSameTime(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		var all sync.WaitGroup
		errs := make([]error, 12)
		for i := range errs {
			all.Go(func() {
				_, errs[i] = r.Note(t.Context(), report("stats", fmt.Sprint(i), fmt.Sprintf("model%d", i)))
			})
		}
		all.Wait()
		require.NoError(t, errors.Join(errs...))
		known, _, err := r.Replicas(t.Context())
		require.NoError(t, err)
		require.Len(t, known, 1)
		require.Len(t, known[0].Models, len(errs))
		require.Len(t, known[0].Instances, len(errs))
	})
}

func TestAQueueThatVanishedIsNoted(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		_, err := r.Note(t.Context(), report("stats", "a", "order"))
		require.NoError(t, err)
		require.NoError(t, r.NoteVanished(t.Context(), "stats"))
		all, now, err := r.Replicas(t.Context())
		require.NoError(t, err)
		require.WithinDuration(t, now, all[0].Vanished, time.Minute)
	})
}
