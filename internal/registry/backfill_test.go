package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cqrsync/cqrsync/internal/registry"
)

func wanted(queue, model, id string) registry.Backfill {
	return registry.Backfill{Queue: queue, Model: model, ID: id, Filter: registry.All}
}

func TestABackfillIsAskedForTakenAndFinished(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		ctx := t.Context()
		for range 2 { // again is the same one
			b, err := r.Request(ctx, wanted("stats", "order", "one"))
			require.NoError(t, err)
			require.Equal(t, "one", b.ID)
			require.Zero(t, b.Finished)
			require.Equal(t, int64(-1), b.Total)
		}
		b, ok, err := r.Take(ctx, "", "me", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		_, ok, err = r.Take(ctx, "", "other", time.Minute)
		require.NoError(t, err)
		require.False(t, ok, "it is taken")

		b.After, b.Sent, b.Bad, b.Total, b.Error = json.RawMessage(`"a"`), 7, 1, 9, "why"
		mine, err := r.Move(ctx, b, time.Minute)
		require.NoError(t, err)
		require.True(t, mine)
		now, found, err := r.Backfill(ctx, "stats", "order")
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, b.After, now.After)
		require.Equal(t, []any{int64(7), int64(1), int64(9), "why", "me"},
			[]any{now.Sent, now.Bad, now.Total, now.Error, now.Owner})

		require.NoError(t, r.Release(ctx, b))
		again, ok, err := r.Take(ctx, "stats", "third", time.Minute)
		require.NoError(t, err)
		require.True(t, ok, "it was released")
		require.Equal(t, b.After, again.After)
		mine, err = r.Move(ctx, b, time.Minute)
		require.NoError(t, err)
		require.False(t, mine, "it is another's")
		mine, err = r.Finish(ctx, again)
		require.NoError(t, err)
		require.True(t, mine)
		done, err := r.Request(ctx, wanted("stats", "order", "one"))
		require.NoError(t, err)
		require.NotZero(t, done.Finished, "who asks again is told that it is over")
	})
}

func TestAnExpiredLeaseIsTaken(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		_, err := r.Request(t.Context(), wanted("stats", "order", "one"))
		require.NoError(t, err)
		_, ok, err := r.Take(t.Context(), "", "dead", -time.Second)
		require.NoError(t, err)
		require.True(t, ok)
		_, ok, err = r.Take(t.Context(), "", "heir", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
	})
}

func TestOneOfAQueueAtATimeAndSeveralQueuesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		for _, b := range []registry.Backfill{
			wanted("stats", "order", "1"), wanted("stats", "customer", "2"), wanted("webhooks", "order", "3"),
		} {
			_, err := r.Request(t.Context(), b)
			require.NoError(t, err)
		}
		var taken []registry.Backfill
		for {
			b, ok, err := r.Take(t.Context(), "", fmt.Sprint("worker ", len(taken)), time.Minute)
			require.NoError(t, err)
			if !ok {
				break
			}
			taken = append(taken, b)
		}
		require.Len(t, taken, 2)
		require.Equal(t, "order", taken[0].Model, "the oldest is first")
		_, err := r.Finish(t.Context(), taken[0])
		require.NoError(t, err)
		b, ok, err := r.Take(t.Context(), "", "next", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "customer", b.Model)
	})
}

func TestOnlyOneTakesABackfill(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		for i := range 5 {
			_, err := r.Request(t.Context(), wanted(fmt.Sprint("queue ", i), "order", "1"))
			require.NoError(t, err)
		}
		var mu sync.Mutex
		taken := map[string]int{}
		var running sync.WaitGroup
		for worker := range 8 {
			running.Go(func() {
				for range 5 {
					b, ok, err := r.Take(t.Context(), "", fmt.Sprint(worker), time.Minute)
					if err != nil {
						t.Error(err)
						return
					}
					if ok {
						mu.Lock()
						taken[b.Queue]++
						mu.Unlock()
					}
				}
			})
		}
		running.Wait()
		require.Len(t, taken, 5)
		for queue, times := range taken {
			require.Equal(t, 1, times, queue)
		}
	})
}

func TestOrdersAndRequestsMeet(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		ctx := t.Context()
		ordered := wanted("stats", "order", "ordered")
		ordered.Rate = 10
		_, err := r.Order(ctx, ordered)
		require.NoError(t, err)
		b, err := r.Order(ctx, wanted("stats", "order", "again"))
		require.NoError(t, err)
		require.Equal(t, "ordered", b.ID, "it goes on")
		some := wanted("stats", "order", "some")
		some.Filter = `{"id":1}`
		_, err = r.Order(ctx, some)
		var busy *registry.BusyError
		require.ErrorAs(t, err, &busy)
		_, err = r.Request(ctx, wanted("stats", "order", "mine"))
		require.ErrorIs(t, err, registry.ErrTooSoon)

		taken, ok, err := r.Take(ctx, "", "me", time.Minute)
		require.NoError(t, err)
		require.True(t, ok)
		age(t, r, 2*time.Minute)
		b, err = r.Request(ctx, wanted("stats", "order", "mine"))
		require.NoError(t, err)
		require.Equal(t, "mine", b.ID, "what was sent may have gone to another database")
		mine, err := r.Move(ctx, taken, time.Minute)
		require.NoError(t, err)
		require.False(t, mine)

		was, err := r.Cancel(ctx, "stats", "order")
		require.NoError(t, err)
		require.True(t, was)
		was, err = r.Cancel(ctx, "stats", "order")
		require.NoError(t, err)
		require.False(t, was)
		b, err = r.Order(ctx, some)
		require.NoError(t, err)
		require.False(t, b.Whole())
	})
}

// age makes every backfill as if it had been asked for earlier.
func age(t *testing.T, r *registry.Registry, by time.Duration) {
	t.Helper()
	_, err := r.DB().ExecContext(t.Context(), "UPDATE ? SET asked_at = "+r.Dialect().After("asked_at", -by),
		r.Table("outbox_backfills"))
	require.NoError(t, err)
}

func TestAVanishedQueueHasBackfillsBeginAnew(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		ctx := t.Context()
		_, err := r.Request(ctx, wanted("stats", "customer", "1"))
		require.NoError(t, err)
		done, _, err := r.Take(ctx, "", "me", time.Minute)
		require.NoError(t, err)
		_, err = r.Finish(ctx, done)
		require.NoError(t, err)
		_, err = r.Request(ctx, wanted("stats", "order", "2"))
		require.NoError(t, err)
		half, _, err := r.Take(ctx, "", "me", time.Minute)
		require.NoError(t, err)
		half.After, half.Sent = json.RawMessage("7"), 7
		_, err = r.Move(ctx, half, time.Minute)
		require.NoError(t, err)

		require.NoError(t, r.NoteVanished(ctx, "stats"))
		mine, err := r.Move(ctx, half, time.Minute)
		require.NoError(t, err)
		require.False(t, mine, "what it would note is lost")
		now, found, err := r.Backfill(ctx, "stats", "order")
		require.NoError(t, err)
		require.True(t, found)
		require.Nil(t, now.After)
		require.Zero(t, now.Sent)
		again, err := r.Request(ctx, wanted("stats", "customer", "1"))
		require.NoError(t, err)
		require.Zero(t, again.Finished, "nobody knows whether it had come")
	})
}

func TestForgettingAReplicaForgetsItsBackfills(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		_, err := r.Note(t.Context(), report("stats", "a", "order"))
		require.NoError(t, err)
		_, err = r.Request(t.Context(), wanted("stats", "order", "1"))
		require.NoError(t, err)
		_, err = r.Forget(t.Context(), "stats")
		require.NoError(t, err)
		all, _, err := r.Backfills(t.Context())
		require.NoError(t, err)
		require.Empty(t, all)
	})
}

// Two that ask at once for the first time ask for one.
func TestTwoAskAtOnce(t *testing.T) {
	each(t, func(t *testing.T, r *registry.Registry) {
		var running sync.WaitGroup
		for range 6 {
			running.Go(func() {
				err := retried(t.Context(), func() error {
					_, err := r.Request(t.Context(), wanted("stats", "order", "1"))
					return err
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		running.Wait()
		all, _, err := r.Backfills(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
	})
}

// retried is for deadlocks, of which one side is told.
func retried(ctx context.Context, do func() error) (err error) {
	for range 5 {
		if err = do(); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}
