package replica_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/replica"
	"github.com/cqrsync/cqrsync/transport/memory"
)

// behind runs a replica of a queue until the test ends.
func behind(t *testing.T, db *bun.DB, queue string, broker *memory.Broker) (rep *replica.Replica, log *logText, stop func() error) {
	t.Helper()
	log = &logText{}
	rep, err := replica.New(db, replica.Config{Queue: queue, Logger: slog.New(slog.NewTextHandler(log, nil))})
	require.NoError(t, err)
	require.NoError(t, rep.Migrate(t.Context()))
	_, err = db.NewCreateTable().Model((*Note)(nil)).IfNotExists().Exec(t.Context())
	require.NoError(t, err)
	require.NoError(t, replica.Register[Note](rep, "note"))
	rep.RegisterEvery(20 * time.Millisecond)
	subscriber := broker.Subscriber(queue)
	stop = sync.OnceValue(run(t, rep, subscriber))
	t.Cleanup(func() { require.NoError(t, errors.Join(stop(), subscriber.Close())) })
	await(t, rep.Running())
	return rep, log, stop
}

func neighbours(t *testing.T, rep *replica.Replica) []replica.Neighbour {
	t.Helper()
	found, err := rep.Neighbours(t.Context())
	require.NoError(t, err)
	return found
}

func TestTwoDatabasesBehindOneQueueFindEachOther(t *testing.T) {
	for name, newURL := range dbtest.Kinds() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			broker := memory.New()
			one, two := dbtest.Open(t, newURL(t)), dbtest.Open(t, newURL(t))
			first, log, _ := behind(t, one, "q", broker)
			twin, _, _ := behind(t, one, "q", broker) // another process of the same service
			other, _, _ := behind(t, two, "other queue", broker)
			second, _, _ := behind(t, two, "q", broker)
			for _, rep := range []*replica.Replica{first, second} {
				require.Eventually(t, func() bool {
					found := neighbours(t, rep)
					return len(found) == 1 && found[0].Active && found[0].Times > 1
				}, time.Minute, 10*time.Millisecond)
			}
			require.NotEqual(t, neighbours(t, first)[0].Database, neighbours(t, second)[0].Database)
			require.Equal(t, neighbours(t, first)[0].Database, neighbours(t, twin)[0].Database)
			require.Empty(t, neighbours(t, other), "of a queue of its own")
			require.Eventually(t, func() bool { return log.count("two databases behind one queue") == 1 }, time.Minute, 10*time.Millisecond)
		})
	}
}

// A replica that has moved to another database says so once, and goes on.
func TestADatabaseThatTookTheQueueOverIsFoundOnce(t *testing.T) {
	dbtest.Each(t, func(t *testing.T, db *bun.DB) {
		broker := memory.New()
		registrar := broker.Subscriber("q")
		_, err := registrar.Register(context.Background(), "the one before")
		require.NoError(t, err)
		rep, log, stop := behind(t, db, "q", broker)
		require.Eventually(t, func() bool { return len(neighbours(t, rep)) == 1 }, time.Minute, time.Millisecond)
		require.Eventually(t, func() bool { return log.count("was used with another database") == 1 }, time.Minute, time.Millisecond)
		for range 3 { // it is noted, and found to be so
			require.Eventually(t, func() bool {
				before, err := registrar.Register(t.Context(), "")
				return err == nil && before != "" && before != "the one before"
			}, time.Minute, time.Millisecond)
		}
		require.NoError(t, stop())
		found := neighbours(t, rep)
		require.Len(t, found, 1)
		require.EqualValues(t, 1, found[0].Times)
		require.False(t, found[0].Active)
		require.Zero(t, log.count("two databases"))
		require.NoError(t, registrar.Close())
	})
}
