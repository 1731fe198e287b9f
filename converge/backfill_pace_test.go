package converge

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// slowReplica is a queue whose replica takes so many messages a second.
type slowReplica struct {
	perSecond float64
	waiting   float64
	at        time.Time
}

func (r *slowReplica) take() {
	now := time.Now()
	r.waiting = max(0, r.waiting-r.perSecond*now.Sub(r.at).Seconds())
	r.at = now
}

// fillFor fills a replica for some seconds of the bubble, and returns how many messages went each
// second, and how many waited at most.
func (r *slowReplica) fillFor(t *testing.T, p *pace, d time.Duration) (rate, most float64) {
	t.Helper()
	began, n := time.Now(), 0
	for time.Since(began) < d {
		some, err := p.next(t.Context(), func(context.Context) error { return nil })
		require.NoError(t, err)
		r.take()
		r.waiting += float64(some)
		most = max(most, r.waiting)
		sleep(t.Context(), time.Duration(some)*20*time.Microsecond) // 50,000 a second to the broker
		p.sent(some)
		n += some
	}
	return float64(n) / d.Seconds(), most
}

// A backfill leaves a part of the replica to what changes at the master, and takes all of it where
// nothing does.
func TestABackfillTakesWhatChangesLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowReplica{perSecond: 10_000, at: time.Now()}
		changes, drawn := true, int64(0)
		p := &pace{
			most: 20_000,
			waiting: func(context.Context) (int64, error) {
				r.take()
				return int64(r.waiting), nil
			},
			drawn: func(context.Context) (int64, bool, error) {
				if changes {
					drawn++
				}
				return drawn, true, nil
			},
		}
		r.fillFor(t, p, 10*time.Second) // it finds out
		rate, most := r.fillFor(t, p, 10*time.Second)
		require.Less(t, rate, 9_300.0)
		require.Less(t, most, 1_000.0, "a tenth of a second")

		changes = false
		r.fillFor(t, p, 4*time.Second)
		rate, most = r.fillFor(t, p, 10*time.Second)
		require.Greater(t, rate, 9_800.0)
		require.Less(t, most, 6_000.0)

		changes = true
		r.fillFor(t, p, 2*time.Second)
		rate, most = r.fillFor(t, p, 5*time.Second)
		require.Less(t, rate, 9_300.0)
		require.Less(t, most, 1_000.0)

		p.drawn = nil // the database cannot tell
		rate, _ = r.fillFor(t, p, 5*time.Second)
		require.Less(t, rate, 9_300.0)
	})
}
