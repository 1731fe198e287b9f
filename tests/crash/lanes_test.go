package crash_test

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/open"
)

// The environment of the process that changes the number of lanes: its database, how many there are to be, and after which
// statement it waits to be killed.
const (
	lanesURL   = "CQRSYNC_CRASH_LANES"
	lanesCount = "CQRSYNC_CRASH_LANES_COUNT"
	lanesStop  = "CQRSYNC_CRASH_LANES_STOP"
)

// lanesLease is long enough for a relay that gets its turn at an SQLite file on a busy machine.
const lanesLease = 4 * time.Second

// setLanes is what relay lanes set does, up to the statement after which it is killed.
func setLanes(url, count, stop string) {
	err := func() error {
		db, err := database.Open(url)
		if err != nil {
			return err
		}
		s, err := mastertest.New(db)
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(count)
		if err != nil {
			return err
		}
		db.AddQueryHook(stopAfter{regexp.MustCompile(stop)}) //nolint:staticcheck // the store already holds this db, not a copy
		return s.SetLanes(context.Background(), n, func(string) {})
	}()
	fmt.Println("error:", err)
}

type stopAfter struct{ statement *regexp.Regexp }

func (stopAfter) BeforeQuery(ctx context.Context, _ *bun.QueryEvent) context.Context { return ctx }

func (s stopAfter) AfterQuery(_ context.Context, event *bun.QueryEvent) {
	if s.statement.MatchString(event.Query) {
		fmt.Println("here")
		select {}
	}
}

func TestAChangeOfTheNumberOfLanesThatIsKilledStopsNobodyForLong(t *testing.T) {
	t.Parallel()
	for kind, newURL := range dbtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			s := mastertest.Open(t, dbtest.Open(t, url))
			broker := "memory:lanes-" + kind
			arrived := receive(t, broker, "crash")
			publisher, err := open.Publisher(broker, open.Options{})
			require.NoError(t, err)
			rel, err := relay.New(dbtest.Open(t, url), publisher, relay.Config{LeaseTTL: lanesLease})
			require.NoError(t, err)
			runUntilEnd(t, rel.Run)
			written, stopWriting := keepWriting(t, s)
			requireGoesOn := func(stop string) {
				so := written.Load()
				require.Eventually(t, func() bool { return written.Load() > so }, 20*time.Second, time.Millisecond, "writers wait: %s", stop)
				so = written.Load()
				require.Eventually(t, func() bool { return int64(arrived.count()) >= so }, time.Minute, 10*time.Millisecond, "relays wait: %s", stop)
			}
			requireGoesOn("before")

			lanes := 64
			for _, kill := range []struct {
				after   string
				changes bool // it is done, but nobody was told
				again   bool // somebody gives the command again at once
			}{
				{after: `^INSERT INTO .outbox_relays`}, // the relay gives its lanes back, and waits
				{after: `epoch = epoch \+ 1`, again: true},
				{after: `^INSERT INTO .outbox_lanes`, again: true},
				{after: `^COMMIT`, changes: true, again: true},
				{after: `^COMMIT`, changes: true},
			} {
				killProcess(t, kill.after, lanesURL+"="+url, lanesCount+"="+strconv.Itoa(lanes+1), lanesStop+"="+kill.after)
				if kill.changes {
					lanes++
				}
				owners, err := s.LaneOwners(t.Context())
				require.NoError(t, err)
				require.Len(t, owners, lanes, kill.after)
				if kill.again {
					lanes++
					require.NoError(t, s.SetLanes(t.Context(), lanes, func(string) {}), kill.after)
				} else {
					require.Eventually(t, func() bool {
						st, err := s.Status(t.Context())
						return err == nil && st.LanesOwned == 0
					}, time.Minute, time.Millisecond, "the relay stands still")
				}
				requireGoesOn(kill.after)
			}
			stopWriting()
			require.Eventually(t, func() bool { return int64(arrived.count()) == written.Load() }, time.Minute, 10*time.Millisecond)
			inversions, _ := arrived.inversions()
			require.Zero(t, inversions)
		})
	}
}

// keepWriting writes messages of a few keys, none replaceable, until stop is called, and counts those that it committed.
func keepWriting(t *testing.T, s *mastertest.Outbox) (written *atomic.Int64, stop func()) {
	const keys = 10
	written = &atomic.Int64{}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var writing sync.WaitGroup
	writing.Go(func() {
		// The pause follows a round, however long that took: an SQLite file has one writer at a
		// time and no queue, and on a slow disk rounds at a fixed rate leave nobody else a turn.
		pause := time.NewTimer(0)
		defer pause.Stop()
		for ctx.Err() == nil {
			switch err := appendRound(t.Context(), s, keys); {
			case err == nil:
				written.Add(keys)
			case !db.Conflicted(err): // as an application does it
				t.Error(err)
				return
			}
			pause.Reset(50 * time.Millisecond)
			select {
			case <-pause.C:
			case <-ctx.Done():
			}
		}
	})
	stop = func() { cancel(); writing.Wait() }
	t.Cleanup(stop)
	return written, stop
}
