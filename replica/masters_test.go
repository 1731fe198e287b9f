package replica_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
)

// logText is a log that a test reads while it is written.
type logText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logText) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logText) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// listening is a replica that notes where messages come from until the test ends.
func listening(t *testing.T, db *bun.DB) (f *fixture, log *logText) {
	t.Helper()
	f, log, _ = listeningUntil(t, db)
	return f, log
}

func listeningUntil(t *testing.T, db *bun.DB) (f *fixture, log *logText, stop func()) {
	t.Helper()
	log = &logText{}
	rep, err := replica.New(db, replica.Config{Queue: queue, Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	require.NoError(t, replica.Register[Note](rep, "note"))
	_, err = db.NewCreateTable().Model((*Note)(nil)).IfNotExists().Exec(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- rep.Maintain(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(stop)
	return &fixture{rep, t, db}, log, stop
}

// from says which incarnation of the master a message is of.
func from(incarnation string, m *envelope.Message) *envelope.Message {
	m.Incarnation = incarnation
	return m
}

// masters waits until the condition holds of what is noted.
func (f *fixture) masters(until func(masters []replica.Master) bool) []replica.Master {
	f.t.Helper()
	var found []replica.Master
	require.Eventually(f.t, func() bool {
		var err error
		found, err = f.Masters(f.t.Context())
		return err == nil && until(found)
	}, time.Minute, 5*time.Millisecond, "%+v", found)
	return found
}

func (f *fixture) mastersAre(n int) []replica.Master {
	f.t.Helper()
	return f.masters(func(masters []replica.Master) bool { return len(masters) == n })
}

// A master that counts its revisions anew is noticed by the first change that is refused.
func TestAChangeThatIsRefusedThoughItIsLaterIsCountedAndLoggedOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, log := listening(t, db)
		f.deliver(save(1, 7, "lost"), save(2, 7, "lost"))
		f.deliver(save(1, 3, "late and old"))
		require.Zero(t, f.Stats().Overtaken, "an old message that comes late is none")
		f.deliver(at(save(1, 4, "new"), 4, noon.Add(time.Hour)), at(save(2, 5, "new"), 5, noon.Add(time.Hour)))
		require.EqualValues(t, 2, f.Stats().Overtaken)
		require.Equal(t, 1, log.count("the master went back"))
		require.Equal(t, 1, log.count("sync --force"))
		masters := f.masters(func(m []replica.Master) bool { return len(m) == 1 && m[0].Overtaken == 2 })
		require.Equal(t, "note", masters[0].Model)
		require.True(t, masters[0].Current)
	})
}

func TestAnotherIncarnationIsNoticedAtOnce(t *testing.T) {
	for kind, after := range map[string]struct{ incarnation, says string }{
		"went back": {"aaaa-2", "failed over or went back"},
		"another":   {"bbbb-1", "another master sends this model"},
	} {
		t.Run(kind, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				f, log := listening(t, db)
				f.deliver(from("aaaa-1", save(1, 0, "a")))
				f.mastersAre(1)
				require.Zero(t, log.count("incarnation="))
				f.deliver(from(after.incarnation, save(1, 1, "b")), from("aaaa-1", save(2, 0, "on its way")))
				masters := f.mastersAre(2)
				require.Equal(t, after.incarnation, masters[1].Incarnation)
				require.True(t, masters[1].Current)
				require.False(t, masters[0].Current)
				require.False(t, masters[0].Rival)
				require.Eventually(t, func() bool { return log.count(after.says) == 1 }, time.Minute, 5*time.Millisecond)
				require.EqualValues(t, 1, f.Stats().MasterChanges)
				require.Zero(t, log.count("two masters write"))
				require.Equal(t, map[int64]string{1: "b", 2: "on its way"}, f.notes(), "it is noticed, not refused")
			})
		})
	}
}

// Two masters have one CQRS id: the one that was here first goes on, by its own clock, though another one came.
func TestTwoMastersOfOneModelAreNoticed(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, log := listening(t, db)
		f.deliver(from("aaaa-1", at(save(1, 0, "a"), 0, noon)))
		f.mastersAre(1)
		f.deliver(from("bbbb-1", at(save(2, 0, "b"), 0, noon.Add(-time.Hour)))) // whose clock is another
		f.mastersAre(2)
		require.Eventually(t, func() bool { return log.count("another master sends") == 1 }, time.Minute, 5*time.Millisecond)

		f.deliver(from("aaaa-1", at(save(1, 1, "of the last moment"), 1, noon.Add(2*time.Second))))
		f.deliver(from("bbbb-1", at(save(2, 1, "b"), 1, noon.Add(-30*time.Minute))))
		f.deliver(from("aaaa-1", at(save(1, 2, "and on"), 2, noon.Add(time.Hour))))
		masters := f.masters(func(m []replica.Master) bool { return len(m) == 2 && m[0].Returns == 1 })
		require.True(t, masters[0].Rival)
		require.Zero(t, masters[1].Returns)
		require.Eventually(t, func() bool { return log.count("two masters write this model") == 1 }, time.Minute, 5*time.Millisecond)
		require.Equal(t, "aaaa-1", masters[0].Incarnation)
	})
}

// What was noted outlives the process: the next one knows which incarnation came before, and says nothing twice.
func TestTheNextProcessKnowsTheMaster(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, _, stop := listeningUntil(t, db)
		f.deliver(from("aaaa-1", save(1, 0, "a")))
		f.mastersAre(1)
		stop()
		next, log, stop := listeningUntil(t, db)
		next.deliver(from("aaaa-1", save(1, 1, "b")))
		stop()
		require.Zero(t, log.count("incarnation="))
		third, log := listening(t, db)
		third.deliver(from("aaaa-2", save(1, 2, "c")))
		third.mastersAre(2)
		require.Eventually(t, func() bool { return log.count("went back") == 1 }, time.Minute, 5*time.Millisecond)
	})
}

// Expiry is judged by the clock that set it, however wrong that is by the clocks here.
func TestExpiryIsJudgedByTheMastersClock(t *testing.T) {
	for name, skew := range map[string]time.Duration{"behind": -100 * time.Hour, "equal": 0, "ahead": 100 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				f, _ := listening(t, db)
				now := time.Now().Add(skew).UTC().Truncate(time.Microsecond)
				f.deliver(at(save(1, 0, "a"), 0, now))
				fresh, expired := at(save(2, 0, "fresh"), 0, now.Add(-time.Minute)), at(save(3, 0, "expired"), 0, now.Add(-time.Hour))
				fresh.Expires, expired.Expires = now.Add(time.Minute), now.Add(-time.Second)
				f.deliver(fresh, expired)
				require.Equal(t, map[int64]string{1: "a", 2: "fresh"}, f.notes())
				require.EqualValues(t, 1, f.DeadLetters()[replica.Expired])
			})
		})
	}
}

// A replica that was stopped knows how much time has passed, by the clock of its own database.
func TestExpiryIsKnownAfterARest(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, _, stop := listeningUntil(t, db)
		f.deliver(at(save(1, 0, "a"), 0, noon))
		f.mastersAre(1)
		stop()
		hour := "interval '1 hour'"
		if db.Dialect().Name().String() != "pg" {
			hour = "3600000000"
		}
		_, err := db.ExecContext(t.Context(), "UPDATE replica_masters SET first_at = first_at - "+hour+", last_at = last_at - "+hour)
		require.NoError(t, err)

		next, _ := listening(t, db)
		next.mastersAre(1)
		expired, fresh := at(save(2, 0, "b"), 0, noon.Add(time.Minute)), at(save(3, 0, "c"), 0, noon.Add(time.Minute))
		expired.Expires, fresh.Expires = noon.Add(50*time.Minute), noon.Add(70*time.Minute)
		require.Eventually(t, func() bool { return next.MasterClock("note", "").After(noon.Add(time.Minute)) }, time.Minute, time.Millisecond)
		next.deliver(expired, fresh)
		require.Equal(t, map[int64]string{1: "a", 3: "c"}, next.notes())
	})
}

// A replica that was off reads what an old incarnation wrote and then what the next one did, all at once: neither is a rival.
func TestABacklogOfTwoIncarnationsIsNoSign(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		for _, pair := range [][2]string{{"aaaa-1", "aaaa-2"}, {"cccc-2", "cccc-1"}} { // whatever their order as texts
			f, log, stop := listeningUntil(t, db)
			stop() // nothing is noted before all of it came
			for i := range int64(5) {
				f.deliver(from(pair[0], at(save(1, i, "a"), i, noon.Add(time.Duration(i)*time.Hour))))
			}
			for i := range int64(5) {
				f.deliver(from(pair[1], at(save(1, 5+i, "b"), 5+i, noon.Add(time.Duration(5+i)*time.Hour))))
			}
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- f.Maintain(ctx) }()
			f.mastersAre(2)
			f.deliver(from(pair[1], at(save(1, 10, "b"), 10, noon.Add(20*time.Hour))), from(pair[1], at(save(1, 11, "b"), 11, noon.Add(40*time.Hour))))
			cancel()
			require.NoError(t, <-done)
			for _, m := range f.mastersAre(2) {
				require.Zero(t, m.Returns, m.Incarnation)
			}
			require.Zero(t, log.count("two masters"))
			_, err := db.ExecContext(t.Context(), "DELETE FROM replica_masters")
			require.NoError(t, err)
			_, err = db.ExecContext(t.Context(), "DELETE FROM replica_revisions")
			require.NoError(t, err)
			_, err = db.ExecContext(t.Context(), "DELETE FROM notes")
			require.NoError(t, err)
		}
	})
}

// What calls itself as no relay does is taken for one that does not name itself, and stops nothing.
func TestAnIncarnationThatNobodyDrewIsNone(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f, log := listening(t, db)
		for i, name := range []string{strings.Repeat("x", 10000), "with a \x00", "\xff", "'; DROP"} {
			f.deliver(from(name, save(int64(i), 0, "a")))
		}
		masters := f.mastersAre(1)
		require.Empty(t, masters[0].Incarnation)
		require.Zero(t, log.count("incarnation="))
		require.Len(t, f.notes(), 4)
	})
}
