package relay_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/mysqldialect"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
)

// frozenLease is that of the process that is stopped, and of those who watch.
const frozenLease = time.Second

// stopped is what a process does when it is stopped. before makes it possible, on behalf of the relay "frozen".
type stopped struct {
	before func(t *testing.T, e *env, round int) func(ctx context.Context, s *mastertest.Outbox) error
	// waits is for how long the relays know of a change of the lanes.
	waits time.Duration
	// split says into how many tests its statements are divided, which wait at the same time; 0 is 1.
	split int
}

var stoppedIn = map[string]stopped{
	"renewal": {before: func(*testing.T, *env, int) func(context.Context, *mastertest.Outbox) error {
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, err := s.Renew(ctx, "frozen", frozenLease)
			return err
		}
	}},
	"balance": {before: func(*testing.T, *env, int) func(context.Context, *mastertest.Outbox) error {
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, err := s.Balance(ctx, "frozen", frozenLease)
			return err
		}
	}},
	"handing back": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		e.own(t)
		return func(ctx context.Context, s *mastertest.Outbox) error { return s.LeaveAll(ctx, "frozen") }
	}},
	"claim": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, _, err := s.Claim(ctx, lanesFrom(e.own(t)), 100, queue.Except{})
			return err
		}
	}},
	"compaction": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		lanes := e.own(t)
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, err := s.Compact(ctx, "frozen", lanes, lanesFrom(lanes), 100, time.Hour)
			return err
		}
	}},
	"removal": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		lanes := e.own(t)
		claimed := e.claimAll(t, lanes)
		return func(ctx context.Context, s *mastertest.Outbox) error {
			return s.Finish(ctx, "frozen", lanes, queue.Outcome{Sent: claimed})
		}
	}},
	"removal with failures": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		lanes := e.own(t)
		failures, sent := failures(e.claimAll(t, lanes), 2)
		return func(ctx context.Context, s *mastertest.Outbox) error {
			return s.Finish(ctx, "frozen", lanes, queue.Outcome{Sent: sent, Failed: failures[:1], Dead: failures[1:]})
		}
	}},
	"end of a wait": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		failed, _ := failures(e.claimAll(t, e.own(t)), 3)
		require.NoError(t, e.Finish(t.Context(), "frozen", nil, queue.Outcome{Failed: failed}))
		return func(ctx context.Context, s *mastertest.Outbox) error {
			return s.MakeDue(ctx, []queue.Key{{Model: "order", Key: failed[0].Key}, {Model: "order", Key: failed[1].Key}})
		}
	}},
	"retry of a dead letter": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		dead := e.buryOne(t)
		return func(ctx context.Context, s *mastertest.Outbox) error { return s.RetryDeadLetter(ctx, dead) }
	}},
	"purge of dead letters": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		e.buryOne(t)
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, err := s.PurgeDeadLetters(ctx, db.DeadLetterFilter{})
			return err
		}
	}},
	"entry": {before: func(*testing.T, *env, int) func(context.Context, *mastertest.Outbox) error {
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, err := s.Enter(ctx, "frozen", frozenLease)
			return err
		}
	}},
	"superseding": {before: func(t *testing.T, e *env, _ int) func(context.Context, *mastertest.Outbox) error {
		lanes := e.own(t)
		list := superseding(e.claimAll(t, lanes))
		require.NotEmpty(t, list)
		return func(ctx context.Context, s *mastertest.Outbox) error {
			_, err := s.Supersede(ctx, "frozen", lanes, list)
			return err
		}
	}},
	"change of the lanes": {waits: 4 * time.Second, split: 4, before: func(_ *testing.T, _ *env, round int) func(context.Context, *mastertest.Outbox) error {
		return func(ctx context.Context, s *mastertest.Outbox) error { return s.SetLanes(ctx, 3+round/4%2, nil) }
	}},
}

// A process may be stopped, or lose its network, between any two statements: nobody else may wait for longer than a lease.
func TestAFrozenProcessStopsNobodyElse(t *testing.T) {
	for name, what := range stoppedIn {
		split := max(what.split, 1)
		for first := range split {
			t.Run(fmt.Sprintf("%s/%d", name, first), func(t *testing.T) {
				t.Parallel()
				onServers(t, func(t *testing.T, rawURL string) {
					e := newEnv(t, dbtest.Open(t, rawURL))
					require.NoError(t, e.SetLanes(t.Context(), 2, nil))
					statement := first
					for e.stopAt(t, rawURL, what, statement) {
						statement += split
					}
					require.Greater(t, statement, first)
				})
			})
		}
	}
}

// onServers runs a test on the databases that have sessions: who is stopped while it writes to an SQLite file stops all
// others, and nobody can end that.
func onServers(t *testing.T, test func(t *testing.T, rawURL string)) {
	t.Helper()
	for name, newURL := range dbtest.Kinds() {
		if name != "sqlite" {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, newURL(t))
			})
		}
	}
}

// stopAt stops a process before one of its statements, and watches the others. It returns false if it has no more.
func (e *env) stopAt(t *testing.T, rawURL string, what stopped, statement int) bool {
	t.Helper()
	prefix := fmt.Sprint("r", statement, "-")
	for key := range 4 {
		e.save(t, prefix+fmt.Sprint(key))
	}
	for key := range 4 {
		e.save(t, prefix+fmt.Sprint(key))
	}
	run := what.before(t, e, statement)
	proxy, proxied := dbtest.NewProxy(t, rawURL)
	defer proxy.Close()
	hook := &dbtest.FreezeBefore{Proxy: proxy, Statements: statement}
	s := e.behind(t, proxied, hook)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, s) }()
	require.Eventually(t, func() bool { return hook.Frozen() != "" || len(ended) > 0 }, patience, time.Millisecond)
	if hook.Frozen() == "" {
		require.NoError(t, <-ended)
		return false
	}
	began := time.Now()
	for key := range 4 {
		e.save(t, prefix+fmt.Sprint(key)) // also those that the stopped process has locked
	}
	e.save(t, "dead")
	e.save(t, "other")
	wrote := time.Since(began)
	if what.waits > 0 && statement%4 != 0 { // it takes long, and is always the same
		require.NoError(t, e.LeaveAll(t.Context(), ""))
	}
	_, stop := e.start(t, e.broker, relay.Config{LeaseTTL: frozenLease, RetryMin: time.Millisecond, RetryMax: time.Millisecond})
	e.requireSent(t)
	sent := time.Since(began)
	t.Logf("before statement %d: written after %s, sent after %s (%.40q)", statement, wrote, sent, hook.Frozen())
	// Some seconds for a busy machine. Without bounds it would be until the connection is closed.
	limit := frozenLease + 5*time.Second
	require.Less(t, wrote, limit, hook.Frozen())
	require.Less(t, sent, 2*limit+what.waits, hook.Frozen())
	require.NoError(t, stop())
	cancel()
	proxy.Close()
	if err := <-ended; !mayFail(hook.Frozen()) {
		require.Error(t, err)
	}
	return true
}

// behind is a store on connections of its own, whose statements all pass the hook.
func (e *env) behind(t *testing.T, rawURL string, hook bun.QueryHook) *mastertest.Outbox {
	t.Helper()
	db := dbtest.Open(t, rawURL)
	plain := bun.NewDB(db.DB, pgdialect.New())
	if _, ok := e.DB().Dialect().(interface{ ReadBinary() }); !ok && e.DB().Dialect().Name() != plain.Dialect().Name() {
		plain = bun.NewDB(db.DB, mysqldialect.New())
	}
	s, err := mastertest.New(plain.WithQueryHook(hook))
	require.NoError(t, err)
	s.Limit(frozenLease, nil)
	return s
}

// save writes the next state of a key, as a service does: again when it is told that there was a conflict.
func (e *env) save(t *testing.T, key string) {
	t.Helper()
	change := ledger.Change{Key: queue.Key{Model: "order", Key: key}}
	for {
		err := e.DB().RunInTx(t.Context(), nil, func(ctx context.Context, tx bun.Tx) error {
			revisions, err := e.Lock(ctx, tx, []ledger.Change{change})
			if err != nil {
				return err
			}
			m := state(key, revisions[change.Key].Revision)
			m.After, m.Follows = revisions[change.Key].After, revisions[change.Key].Follows
			return e.Append(ctx, tx, []queue.Message{m}, nil)
		})
		if !db.Conflicted(err) {
			require.NoError(t, err)
			return
		}
	}
}

// own makes the relay "frozen" the owner of all lanes.
func (e *env) own(t *testing.T) []queue.Lane {
	t.Helper()
	var owned queue.Ownership
	eventually(t, func() (all bool) {
		var err error
		owned, err = e.Enter(t.Context(), "frozen", frozenLease)
		require.NoError(t, err)
		return len(owned.Lanes) == owned.Share && owned.Share > 0 && owned.Free <= len(owned.Lanes)
	}, "lanes")
	return owned.Lanes
}

func lanesFrom(lanes []queue.Lane) []queue.Start {
	starts := make([]queue.Start, len(lanes))
	for i, l := range lanes {
		starts[i].Lane = l.Lane
	}
	return starts
}

// failures are those of the oldest message of n keys each; others are the messages of other keys.
func failures(claimed []*queue.Claimed, n int) (failed []queue.Failure, others []*queue.Claimed) {
	keys := map[string]bool{}
	for _, m := range claimed {
		if len(keys) < n && !keys[m.Key] {
			keys[m.Key] = true
			failed = append(failed, queue.Failure{Claimed: m, Error: "no", Wait: time.Millisecond})
		}
	}
	return failed, slices.DeleteFunc(claimed, func(m *queue.Claimed) bool { return keys[m.Key] })
}

// superseding has the newest message of each key replace all others.
func superseding(claimed []*queue.Claimed) (list []queue.Superseding) {
	of := map[string][]*queue.Claimed{}
	for _, m := range claimed {
		of[m.Key] = append(of[m.Key], m)
	}
	for _, messages := range of {
		if last := len(messages) - 1; last > 0 {
			list = append(list, queue.Superseding{Claimed: messages[last], Older: messages[:last]})
		}
	}
	return list
}

func (e *env) claimAll(t *testing.T, lanes []queue.Lane) []*queue.Claimed {
	t.Helper()
	claimed, _, err := e.Claim(t.Context(), lanesFrom(lanes), 50, queue.Except{})
	require.NoError(t, err)
	require.NotEmpty(t, claimed)
	return claimed
}

// buryOne makes a dead letter that may be sent again.
func (e *env) buryOne(t *testing.T) (id int64) {
	t.Helper()
	lanes := e.own(t)
	e.save(t, "dead")
	e.exec(t, "UPDATE outbox_revisions SET revision = 0, produced = 0 WHERE model = 'order'")
	for _, m := range e.claimAll(t, lanes) {
		if m.Key == "dead" {
			require.NoError(t, e.Finish(t.Context(), "frozen", lanes, queue.Outcome{Dead: []queue.Failure{{Claimed: m, Error: "no"}}}))
			id = m.ID
		}
	}
	require.NotZero(t, id, errors.New("no dead letter"))
	return id
}

// One locked row holds up its own key only, and the log says by whom.
func TestARowThatOthersHoldLockedHoldsUpItsKeyOnly(t *testing.T) {
	for name, lock := range map[string]string{
		"message":    "SELECT id FROM outbox_messages WHERE model = 'order' AND KEY = 'locked' FOR UPDATE",
		"many":       "SELECT id FROM outbox_messages WHERE model = 'order' AND KEY LIKE 'l%' FOR UPDATE",
		"retry":      "SELECT attempts FROM outbox_retries WHERE model = 'order' AND KEY = 'locked' FOR UPDATE",
		"a new wait": "INSERT INTO outbox_retries (model, KEY, attempts, next_attempt_at, last_error) VALUES ('order', 'bad', 0, NOW, 'no')",
	} {
		t.Run(name, func(t *testing.T) {
			onServers(t, func(t *testing.T, rawURL string) {
				e := newEnv(t, dbtest.Open(t, rawURL))
				key, now := `"key"`, "now()"
				if !strings.HasPrefix(rawURL, "postgres") {
					key, now = "`key`", "0"
				}
				e.broker.refuse = func(m *envelope.Message) error {
					if m.Key == "bad" {
						return errors.New("no")
					}
					return nil
				}
				e.save(t, "locked")
				e.save(t, "l2")
				if name == "retry" {
					claimed, _, err := e.Claim(t.Context(), everyLaneOf(64), 10, queue.Except{})
					require.NoError(t, err)
					failed, _ := failures(slices.DeleteFunc(claimed, func(m *queue.Claimed) bool { return m.Key != "locked" }), 1)
					require.NoError(t, e.Finish(t.Context(), "other", nil, queue.Outcome{Failed: failed}))
				}
				tx, err := e.DB().BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelReadCommitted})
				require.NoError(t, err)
				defer func() { _ = tx.Rollback() }() // it is over where the test ends as it should
				_, err = tx.ExecContext(t.Context(), strings.NewReplacer("KEY", key, "NOW", now).Replace(lock))
				require.NoError(t, err)
				_, _ = e.start(t, e.broker, relay.Config{LeaseTTL: 4 * time.Second, RetryMin: time.Hour})
				for i := range 20 {
					e.save(t, fmt.Sprint("k", i))
				}
				e.save(t, "bad")
				left := map[string]int64{"message": 2, "many": 3, "retry": 2, "a new wait": 1}[name] // with the bad one
				eventually(t, func() bool { return e.status(t).Unsent == left }, "the others are sent and removed")
				e.save(t, "locked") // its next message leaves all the same
				e.save(t, "k0")
				eventually(t, func() bool { return slices.Contains(e.broker.received(), "locked/1") }, "what follows it")
				eventually(t, func() bool { return slices.Contains(e.broker.received(), "k0/1") }, "another key")
				eventually(t, func() bool { return e.logs.count("waiting for another transaction") > 0 }, "who is waited for")
				require.Zero(t, e.logs.count("55P03")+e.logs.count("Error 1205"), "it is no outage")
				require.NoError(t, tx.Rollback())
				eventually(t, func() bool { st := e.status(t); return st.Unsent == 1 && st.Retries == 1 }, "the rest is written down")
				e.broker.requireOrder(t)
			})
		})
	}
}

func everyLaneOf(count int) []queue.Start {
	starts := make([]queue.Start, count)
	for lane := range starts {
		starts[lane].Lane = lane
	}
	return starts
}

// mayFail says that nothing fails with a statement: one that sets back what is the session's after the
// commit, or that asks, on a busy machine, who is waited for.
func mayFail(statement string) bool {
	return strings.Contains(statement, "= @cqrsync_idle") ||
		strings.Contains(statement, "trx_mysql_thread_id AS pid") || strings.Contains(statement, "pg_blocking_pids")
}
