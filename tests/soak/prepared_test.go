package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/database"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
)

// Two-phase commit needs max_prepared_transactions, which few servers have and these tests' own has.

// received notes the revisions of each key in the order in which they left.
type received struct {
	mu   sync.Mutex
	keys map[string][]string
}

func (r *received) Publish(_ string, messages ...*message.Message) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		key := m.Metadata.Get("cqrs_key")
		r.keys[key] = append(r.keys[key], m.Metadata.Get("cqrs_revision"))
	}
	return nil
}

func (*received) Close() error { return nil }

func (r *received) of(key string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.keys[key])
}

// preparedOutbox is an outbox on a server of the test's own.
type preparedOutbox struct {
	*mastertest.Outbox
	server *postgres
}

func newPreparedOutbox(t *testing.T) preparedOutbox {
	t.Helper()
	server := startPostgres(t)
	db, err := database.Open(server.url())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	s := mastertest.Open(t, db)
	return preparedOutbox{s, server}
}

func revisionOf(key string, revision int64) queue.Message {
	return queue.Message{
		Model: "order", Key: key, Revision: revision, Signal: "SAVE", Keep: true,
		PK: json.RawMessage("1"), Data: json.RawMessage(`{"id":1}`), Updated: time.Now(),
	}
}

func (o preparedOutbox) append(t *testing.T, key string, revision int64) {
	t.Helper()
	require.NoError(t, o.Append(t.Context(), o.DB(), []queue.Message{revisionOf(key, revision)}, nil))
}

// prepare writes a message and prepares the transaction.
func (o preparedOutbox) prepare(t *testing.T, id, key string, revision int64) {
	t.Helper()
	conn, err := o.DB().Conn(t.Context())
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	tx, err := conn.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	require.NoError(t, o.Append(t.Context(), tx, []queue.Message{revisionOf(key, revision)}, nil))
	_, err = tx.ExecContext(t.Context(), fmt.Sprintf("PREPARE TRANSACTION '%s'", id))
	require.NoError(t, err)
	_ = tx.Rollback() // the connection's transaction is over, only database/sql does not know
}

func (o preparedOutbox) exec(t *testing.T, statement string) {
	t.Helper()
	_, err := o.DB().ExecContext(t.Context(), statement)
	require.NoError(t, err)
}

func (o preparedOutbox) writers(t *testing.T) queue.Writers {
	t.Helper()
	var w queue.Writers
	require.Eventually(t, func() bool { // the pool may have connections from before a restart
		var ok bool
		var err error
		w, ok, err = o.Writers(t.Context())
		return ok && err == nil
	}, time.Minute, 10*time.Millisecond)
	return w
}

func TestAPreparedTransactionIsAWriter(t *testing.T) {
	o := newPreparedOutbox(t)
	o.prepare(t, "one", "a", 0)
	listed := slices.Collect(maps.Keys(o.writers(t).Open))
	require.Len(t, listed, 1)
	o.prepare(t, "two", "b", 0)
	require.Len(t, o.writers(t).Open, 2)
	require.Equal(t, listed, o.writers(t).Left(listed))

	for _, mode := range []string{"fast", "immediate"} { // it has another name afterwards
		o.server.stop(mode)
		o.server.start()
		require.NotEmpty(t, o.writers(t).Left(listed), mode)
		require.Empty(t, o.writers(t).Left(nil), mode)
	}
	o.exec(t, "COMMIT PREPARED 'one'")
	require.NotEmpty(t, o.writers(t).Left(listed), "the other may be the one that was listed")
	o.exec(t, "ROLLBACK PREPARED 'two'")
	require.Empty(t, o.writers(t).Open)
	require.Empty(t, o.writers(t).Left(listed))
}

// The message of a prepared transaction has a low identity and is committed late: floors that have passed it would let the
// next ones of its key go first.
func TestWhatIsPreparedLeavesBeforeWhatFollowsIt(t *testing.T) {
	o := newPreparedOutbox(t)
	broker := &received{keys: map[string][]string{}}
	rel, err := relay.New(o.DB(), broker, relay.Config{
		PollInterval: 5 * time.Millisecond, LeaseTTL: 10 * time.Second, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- rel.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	left := func(key, revision string) {
		t.Helper()
		require.Eventually(t, func() bool { return slices.Contains(broker.of(key), revision) }, time.Minute, time.Millisecond)
	}
	// others writes in every lane until the floors have had their time to move.
	others := func(round int) {
		for until := time.Now().Add(300 * time.Millisecond); time.Now().Before(until); {
			for i := range 64 {
				o.append(t, fmt.Sprintf("%d-%d", round, i), 0)
			}
		}
	}
	for round, restart := range []bool{false, false, false, false, true} {
		key := fmt.Sprint("prepared", round)
		o.append(t, key, 0)
		left(key, "0")
		o.prepare(t, key, key, 1)
		others(2 * round)
		if restart {
			o.server.stop("fast")
			o.server.start()
			o.writers(t)
			others(2*round + 1)
		}
		o.exec(t, fmt.Sprintf("COMMIT PREPARED '%s'", key))
		require.NoError(t, o.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			return o.Append(ctx, tx, []queue.Message{revisionOf(key, 2), revisionOf(key, 3)}, nil)
		}))
		left(key, "3")
		// A server that stops may take along that a message left, which then leaves once more.
		require.Equal(t, []string{"0", "1", "2", "3"}, slices.Compact(broker.of(key)), "round %d", round)
	}
}
