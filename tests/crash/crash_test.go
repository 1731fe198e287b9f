package crash_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/examples/orders/demo"
	"github.com/cqrsync/cqrsync/examples/orders/orders"
	"github.com/cqrsync/cqrsync/examples/orders/stats"
	"github.com/cqrsync/cqrsync/examples/orders/webhooks"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/relay"
	"github.com/cqrsync/cqrsync/transport/memory"
)

func TestAKilledWriterLeavesAMessageForEveryCommittedChangeAndNoOther(t *testing.T) {
	t.Parallel()
	killsWriters(t, "")
}

// The same where triggers capture, and the flush takes what they marked.
func TestAKilledWriterUnderTriggersLeavesAMessageForEveryCommittedChangeAndNoOther(t *testing.T) {
	t.Parallel()
	killsWriters(t, "yes")
}

func killsWriters(t *testing.T, triggers string) {
	t.Helper()
	for kind, newURL := range dbtest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url := newURL(t)
			db := dbtest.Open(t, url)
			service, err := orders.New(t.Context(), db, orders.Config{Triggers: triggers != ""})
			require.NoError(t, err)
			_, err = db.NewCreateTable().Model((*journal)(nil)).Exec(t.Context())
			require.NoError(t, err)

			for range 4 {
				for _, stop := range []string{
					fmt.Sprintf("statement %d hold", 1+rand.IntN(100)), // between two statements, also of the flush
					fmt.Sprintf("commit %d hold", 1+rand.IntN(10)),     // committed, and nobody knows it yet
					fmt.Sprintf("statement %d run", 1+rand.IntN(100)),  // anywhere
				} {
					killProcess(t, stop, writerURL+"="+url, writerStop+"="+stop, writerTriggers+"="+triggers)
					requireWhole(t, db, stop)
				}
			}
			requireConvergence(t, service, db)
		})
	}
}

// killProcess runs the program that the environment chooses until it has come to where it is to be killed.
func killProcess(t *testing.T, stop string, environment ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	path, err := os.Executable()
	require.NoError(t, err)
	process := exec.CommandContext(ctx, path)
	process.Env = append(os.Environ(), environment...)
	process.Stderr = os.Stderr
	stdout, err := process.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, process.Start())
	out := bufio.NewReader(stdout)
	line, readErr := out.ReadString('\n')
	killErr := process.Process.Kill()
	_, _ = io.Copy(io.Discard, out)
	waitErr := process.Wait()
	require.NoError(t, readErr)
	require.Equal(t, "here\n", line, stop)
	require.NoError(t, killErr)
	var exit *exec.ExitError
	require.ErrorAs(t, waitErr, &exit)
	require.False(t, exit.Exited(), "it ended by itself: %s", exit)
}

// requireWhole compares the outbox with the journal. Each is one statement, so one snapshot: a COMMIT that the
// database received before the kill may still be on its way.
func requireWhole(t *testing.T, db *bun.DB, stop string) {
	t.Helper()
	customer := bun.Safe("data ->> 'customer'")
	if db.Dialect().Name() == dialect.MySQL {
		customer = "json_value(data, '$.customer')"
	}
	var wrong []string
	err := db.NewRaw(`
		SELECT marker FROM (
			SELECT marker, saves AS expected, 0 AS found FROM journal
			UNION ALL
			SELECT ?, 0, 1 FROM outbox_messages AS m WHERE m.signal = 'SAVE'
		) AS both_sides
		GROUP BY marker HAVING sum(expected) <> sum(found)`, customer).Scan(t.Context(), &wrong)
	require.NoError(t, err)
	require.Empty(t, wrong, "transactions whose messages are not those they committed (killed at %s)", stop)
	var deletes, messages int
	err = db.NewRaw(`SELECT (SELECT coalesce(sum(deletes), 0) FROM journal),
		(SELECT count(*) FROM outbox_messages AS m WHERE m.signal = 'DELETE')`).Scan(t.Context(), &deletes, &messages)
	require.NoError(t, err)
	require.Equal(t, deletes, messages, "killed at %s", stop)
}

// requireConvergence lets a relay and two replicas loose on what the writers left behind.
func requireConvergence(t *testing.T, service *orders.Service, db *bun.DB) {
	t.Helper()
	databases := demo.Databases{
		Orders: db, Webhooks: dbtest.Open(t, dbtest.SQLiteURL(t)), Stats: dbtest.Open(t, dbtest.SQLiteURL(t)),
	}
	hooks, err := webhooks.New(t.Context(), databases.Webhooks, "webhooks", webhooks.Config{})
	require.NoError(t, err)
	sums, err := stats.New(t.Context(), databases.Stats, "stats", stats.Config{Consumers: 2})
	require.NoError(t, err)
	broker := memory.New()
	replicate := func(queue string, run func(context.Context, message.Subscriber) error, running <-chan struct{}) {
		runUntilEnd(t, func(ctx context.Context) error { return run(ctx, broker.Subscriber(queue)) })
		<-running
	}
	replicate("webhooks", hooks.Replicate, hooks.Running())
	replicate("stats", sums.Replicate, sums.Running())
	rel, err := relay.New(db, broker.Publisher(), relay.Config{Wake: service.Box().Wake()})
	require.NoError(t, err)
	runUntilEnd(t, rel.Run)

	var result demo.Comparison
	require.Eventually(t, func() bool {
		result, err = databases.Compare(t.Context(), 10)
		return err != nil || len(result.Differences) == 0
	}, time.Minute, 50*time.Millisecond, "the replicas differ")
	require.NoError(t, err)
	require.NotZero(t, result.Orders)
	require.Equal(t, result.Orders, result.Webhooks)
	require.Equal(t, result.Orders, result.Stats)
}

// runUntilEnd runs something that blocks until the test ends.
func runUntilEnd(t *testing.T, run func(context.Context) error) {
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			require.NoError(t, err)
		}
	})
}
