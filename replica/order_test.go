package replica_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// following says which revision of the key was sent before a message.
func following(m *envelope.Message, after int64) *envelope.Message {
	m.After = &after
	return m
}

// sibling is another process at the queue of webhooks and the database.
func sibling(t *testing.T, db *bun.DB, config replica.Config) *replica.Replica {
	t.Helper()
	config.Queue = queue
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	rep, err := replica.New(db, config)
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	return rep
}

// seen is what handlers saw, per key.
type seen struct {
	mu        sync.Mutex
	revisions map[string][]int64
	n         int
}

func (s *seen) add(e replica.Event[Note]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.revisions == nil {
		s.revisions = map[string][]int64{}
	}
	if !slices.Contains(s.revisions[e.Key], e.Revision) { // HandleFunc may be called again for the same event
		s.revisions[e.Key] = append(s.revisions[e.Key], e.Revision)
		s.n++
	}
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n
}

func TestHandlersOfSeveralProcessesSeeEveryRevisionInOrder(t *testing.T) {
	const keys, revisions = 5, 60
	handlers := map[string]func(r *replica.Replica, s *seen) error{
		"Handle": func(r *replica.Replica, s *seen) error {
			return replica.Handle(r, "note", func(_ context.Context, _ bun.Tx, e replica.Event[Note]) error {
				s.add(e)
				return nil
			})
		},
		"HandleFunc": func(r *replica.Replica, s *seen) error {
			return replica.HandleFunc(r, "note", func(_ context.Context, e replica.Event[Note]) error {
				s.add(e)
				return nil
			})
		},
	}
	for name, register := range handlers {
		t.Run(name, func(t *testing.T) {
			dbtest.Each(t, func(t *testing.T, db *bun.DB) {
				broker, got := memory.New(), &seen{}
				var gaps []replica.Gap
				var all []*replica.Replica
				for range 3 {
					rep := sibling(t, db, replica.Config{
						Workers: 2, Window: 40, OnGap: func(_ context.Context, g replica.Gap) { gaps = append(gaps, g) },
					})
					require.NoError(t, register(rep, got))
					stop := run(t, rep, broker.Subscriber(queue))
					defer func() { require.NoError(t, stop()) }()
					await(t, rep.Running())
					all = append(all, rep)
				}
				var out []transport.Outgoing
				for revision := range int64(revisions) {
					for id := range int64(keys) {
						m := following(save(id, revision, fmt.Sprint(revision)), revision-1)
						out = append(out, transport.Outgoing{Topic: "note", Message: delivery(t, m)})
					}
				}
				for _, err := range broker.Publisher().PublishBatch(t.Context(), out) {
					require.NoError(t, err)
				}
				require.Eventually(t, func() bool { return got.count() >= keys*revisions }, time.Minute, 5*time.Millisecond,
					"a handler missed a revision")
				for key, list := range got.revisions {
					require.Len(t, list, revisions, "key %s", key)
					for i, revision := range list {
						require.EqualValues(t, i, revision, "key %s is out of order", key)
					}
				}
				require.Empty(t, gaps)
				for _, rep := range all {
					require.Zero(t, rep.Stats().Gaps)
				}
			})
		})
	}
}

// What another process holds is late and not lost.
func TestMessageWaitsForTheOneBeforeIt(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixtureWith(t, db, replica.Config{WaitForMissing: time.Hour})
		var got []int64
		require.NoError(t, replica.Handle(f.Replica, "note", func(_ context.Context, _ bun.Tx, e replica.Event[Note]) error {
			got = append(got, e.Revision)
			return nil
		}))
		f.deliver(following(save(1, 0, "a"), -1), following(del(1, 4), 3), following(save(1, 3, "d"), 2), following(save(1, 2, "c"), 1))
		require.Equal(t, []int64{0}, got)
		require.Len(t, f.waiting(), 3)
		require.Zero(t, f.waiting()[0].Attempts, "it is nobody's fault")
		f.deliver(following(save(1, 1, "b"), 0))
		f.maintain(func() bool { return f.ledger(1).Revision == 4 })
		require.Equal(t, []int64{0, 1, 2, 3, 4}, got)
		require.Empty(t, f.waiting())
		require.Zero(t, f.Stats().Gaps)

		// A SYNC is a state that was asked for: it does not wait.
		sync := following(msg(envelope.Sync, 2, 9, `"text":"x"`), 8)
		f.deliver(sync)
		require.EqualValues(t, 9, f.ledger(2).Revision)
	})
}

func TestWaitForTheOneBeforeItEnds(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		gaps := make(chan replica.Gap, 1)
		f := newFixtureWith(t, db, replica.Config{
			WaitForMissing: 20 * time.Millisecond, OnGap: func(_ context.Context, g replica.Gap) { gaps <- g },
		})
		var got []int64
		require.NoError(t, replica.Handle(f.Replica, "note", func(_ context.Context, _ bun.Tx, e replica.Event[Note]) error {
			got = append(got, e.Revision)
			return nil
		}))
		f.deliver(following(save(1, 0, "a"), -1), following(save(1, 2, "c"), 1), following(save(1, 3, "d"), 2))
		require.Equal(t, []int64{0}, got)
		f.maintain(func() bool { return f.ledger(1).Revision == 3 })
		require.Equal(t, []int64{0, 2, 3}, got)
		require.Equal(t, replica.Gap{Model: "note", Key: "1", Had: 0, Missing: 1, Applied: 2}, await(t, gaps))
		require.EqualValues(t, 1, f.Stats().Gaps)
	})
}

// A dead letter does not come, so nobody waits for it.
func TestDeadLetterIsNotWaitedFor(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixtureWith(t, db, replica.Config{WaitForMissing: time.Hour})
		var got []int64
		require.NoError(t, replica.Handle(f.Replica, "note", func(_ context.Context, _ bun.Tx, e replica.Event[Note]) error {
			got = append(got, e.Revision)
			return nil
		}))
		bad := func(id, revision, after int64) *envelope.Message {
			return following(msg(envelope.Save, id, revision, `"text":{}`), after)
		}
		f.deliver(following(save(1, 0, "a"), -1), bad(1, 1, 0), following(save(1, 2, "c"), 1))
		require.Equal(t, []int64{0, 2}, got, "the dead letter was there before")
		f.deliver(following(save(1, 4, "e"), 3), bad(1, 3, 2))
		f.maintain(func() bool { return f.ledger(1).Revision == 4 })
		require.Equal(t, []int64{0, 2, 4}, got, "the dead letter came after")
		f.deliver(bad(1, 6, 5), following(save(1, 7, "h"), 6))
		require.Equal(t, []int64{0, 2, 4}, got, "what was sent before the dead letter may come yet")
		f.deliver(following(save(1, 5, "f"), 4))
		f.maintain(func() bool { return f.ledger(1).Revision == 7 })
		require.Equal(t, []int64{0, 2, 4, 5, 7}, got)
	})
}

// A handler that fails keeps its place: what comes after it waits, and is not applied before it.
func TestFailedRevisionIsNotOvertakenAtOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		f := newFixtureWith(t, db, replica.Config{WaitForMissing: time.Hour})
		var got []int64
		broken := true
		require.NoError(t, replica.Handle(f.Replica, "note", func(_ context.Context, _ bun.Tx, e replica.Event[Note]) error {
			if broken && e.Revision == 1 {
				return replica.Retry(time.Millisecond, io.ErrUnexpectedEOF)
			}
			got = append(got, e.Revision)
			return nil
		}))
		f.deliver(following(save(1, 0, "a"), -1), following(save(1, 1, "b"), 0), following(save(1, 2, "c"), 1))
		require.Equal(t, []int64{0}, got)
		broken = false
		f.maintain(func() bool { return f.ledger(1).Revision == 2 })
		require.Equal(t, []int64{0, 1, 2}, got)
	})
}

// A mirror does not wait, and does not call missing what another process has.
func TestMirrorCallsMissingOnlyWhatDoesNotCome(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		var log strings.Builder
		var mu sync.Mutex
		logger := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil))
		gaps := make(chan replica.Gap, 10)
		config := replica.Config{
			Logger: logger, WaitForMissing: 2 * time.Second, OnGap: func(_ context.Context, g replica.Gap) { gaps <- g },
		}
		rep := sibling(t, db, config)
		f := &fixture{rep, t, db}
		mirror[Note](f, "note")
		f.deliver(following(save(1, 0, "a"), -1), following(save(2, 0, "a"), -1))
		f.deliver(following(save(1, 4, "e"), 3), following(save(2, 4, "e"), 3))
		require.Equal(t, map[int64]string{1: "e", 2: "e"}, f.notes(), "at once")
		f.deliver(following(save(1, 1, "b"), 0), following(save(1, 3, "d"), 2), following(save(1, 2, "c"), 1))
		f.deliver(following(save(2, 3, "d"), 2), following(save(2, 1, "b"), 0))
		require.Zero(t, rep.Stats().Gaps)
		stop := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { stop <- rep.Maintain(ctx) }()
		require.Equal(t, replica.Gap{Model: "note", Key: "2", Had: 0, Missing: 2, Applied: 4}, await(t, gaps))
		cancel()
		require.NoError(t, await(t, stop))
		require.Empty(t, gaps)
		require.EqualValues(t, 1, rep.Stats().Gaps)
		require.Equal(t, 1, strings.Count(log.String(), "a message is missing"), log.String())
	})
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
