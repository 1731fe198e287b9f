package simulation

import (
	"cmp"
	"flag"
	"log/slog"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

var (
	schedules = flag.Uint64("schedules", 0, "how many schedules to run; 0 for 10,000")
	first     = flag.Uint64("first", 0, "the seed of the first")
	seed      = flag.Int64("seed", -1, "run this one only, and log what happens")
)

var byDefault uint64 = 10_000

// runSeed runs the schedule of a seed.
func runSeed(t *testing.T, seed uint64, log *slog.Logger) (c course) {
	t.Helper()
	synctest.Test(t, func(*testing.T) { c = run(newSchedule(seed), log) })
	return c
}

func TestNoScheduleBreaksAPromise(t *testing.T) {
	if *seed >= 0 {
		c := runSeed(t, uint64(*seed), slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})))
		require.Empty(t, c.faults)
		return
	}
	count := cmp.Or(*schedules, byDefault)
	var next atomic.Uint64
	var failed atomic.Bool
	for range 2 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for n := next.Add(1); n <= count && !failed.Load(); n = next.Add(1) {
				seed := *first + n
				if c := runSeed(t, seed, slog.New(slog.DiscardHandler)); len(c.faults) > 0 {
					failed.Store(true)
					t.Errorf("go test ./tests/simulation -seed %d: %q", seed, c.faults)
				}
			}
		})
	}
}

// A seed that fails is of use only if it fails again.
func TestASeedIsOneCourse(t *testing.T) {
	for seed := range uint64(300) {
		once, again := runSeed(t, seed, slog.New(slog.DiscardHandler)), runSeed(t, seed, slog.New(slog.DiscardHandler))
		require.Equal(t, once, again, "seed %d", seed)
		require.Positive(t, once.events)
	}
}
