package queuetest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect"

	"github.com/cqrsync/cqrsync/internal/dbtest"
	"github.com/cqrsync/cqrsync/internal/handover"
	"github.com/cqrsync/cqrsync/internal/master/mastertest"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/relay"
)

// Subject is an outbox as a relay sees it, with what else a test of it needs. It has 64 lanes.
type Subject struct {
	relay.Queue
	// Begin begins a transaction of a writer.
	Begin func(testing.TB) Writer
	// BackUp saves the tables, and returns a function that makes them what they were.
	BackUp func(testing.TB) (restore func())
	// Hold locks messages, and returns a function that lets them go.
	Hold func(t testing.TB, ids ...int64) (release func())
	// OneWriter says that nobody can do anything beside an open transaction, and that one relay
	// works at a time.
	OneWriter bool
}

// Writer is a transaction that appends messages.
type Writer struct {
	// Append returns the messages as they may be handed over.
	Append func(testing.TB, []queue.Message) []*queue.Claimed
	Commit func(testing.TB)
}

// Queue exercises what a relay needs of an outbox: in a database, or in memory.
func Queue(t *testing.T, open func(testing.TB) Subject) {
	for name, test := range map[string]func(*testing.T, *queueSuite){
		"what was handed over is removed":                      removesWhatWasHandedOver,
		"one relay owns every lane":                            ownsEverything,
		"relays share the lanes fairly":                        sharesFairly,
		"a lane handed back is free at once":                   handsBack,
		"a lane is not handed back by who had the name before": leavesALaterTenureAlone,
		"a lane that ran out goes to another, next epoch":      takesOver,
		"a lane that ran out and nobody took is renewed":       renewsLate,
		"many balance at once and no lane has two owners":      balancesAtOnce,
		"with one writer one works and the others wait":        oneWorksTheOthersWait,
		"every column survives the way through a claim":        claimsWholeMessages,
		"a claim is in order and the oldest of each lane":      claimsInOrder,
		"a claim stops at its size in bytes":                   claimsBoundedBytes,
		"a late commit with a low id is found":                 findsLateCommits,
		"writers are those that may add messages late":         listsWriters,
		"lanes with waiting keys are known":                    knowsWaitingLanes,
		"a message that replaces the failed one says so":       endsTheWait,
		"of a key's replaceable messages the newest stays":     compacts,
		"what may not be dropped is not dropped":               compactsNoOther,
		"compaction is fenced, and bounded":                    compactsFenced,
		"a compaction that takes too long is given up":         givesUpCompaction,
		"a compaction goes on where the last one ended":        compactsOnward,
		"what was replaced in memory is removed":               supersedes,
		"an old epoch supersedes nothing":                      supersedesFenced,
		"what others hold is not superseded":                   supersedesWhatIsHeld,
		"a key's wait ends for a whole claim":                  endsTheWaitForAWholeClaim,
		"a sent message ends the key's retries":                sentEndsRetries,
		"a failure that is not the message's costs nothing":    sparesAttempts,
		"an old epoch removes nothing":                         fencesRemoval,
		"an old epoch buries nothing":                          fencesBurial,
		"what was never sent is not removed after going back":  removesNothingUnknown,
		"an owner that came back is another tenure":            fencesTenures,
		"a lease that went back is noticed":                    noticesThatItWentBack,
		"who enters under an owner's name takes its lanes":     entersAnew,
		"status counts": countsStatus,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, &queueSuite{open(t)})
		})
	}
}

type queueSuite struct{ Subject }

// inSQL is the outbox of a database.
func inSQL(t testing.TB, db *bun.DB) (Subject, *mastertest.Outbox) {
	t.Helper()
	o := mastertest.Open(t, db)
	return Subject{
		Queue:     o,
		Begin:     func(t testing.TB) Writer { return beginSQL(t, o) },
		BackUp:    func(t testing.TB) func() { return dbtest.BackUpOutbox(t, db) },
		Hold:      func(t testing.TB, ids ...int64) func() { return holdSQL(t, db, ids) },
		OneWriter: db.Dialect().Name() == dialect.SQLite,
	}, o
}

func beginSQL(t testing.TB, s *mastertest.Outbox) Writer {
	t.Helper()
	tx, err := s.DB().BeginTx(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback() }) // mostly it was committed
	return Writer{
		Append: func(t testing.TB, messages []queue.Message) []*queue.Claimed {
			t.Helper()
			to := &handover.Appended{}
			require.NoError(t, s.Append(t.Context(), tx, messages, to))
			var appended []*queue.Claimed
			for _, m := range to.Offer(time.Time{}).Messages {
				appended = append(appended, &queue.Claimed{Message: m})
			}
			return appended
		},
		Commit: func(t testing.TB) {
			t.Helper()
			require.NoError(t, tx.Commit())
		},
	}
}

func holdSQL(t testing.TB, db *bun.DB, ids []int64) (release func()) {
	t.Helper()
	other, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = other.Rollback() }) // mostly it was committed
	_, err = other.ExecContext(t.Context(),
		"UPDATE outbox_messages SET pk = '1' WHERE id IN (?)", bun.List(ids))
	require.NoError(t, err)
	return func() {
		t.Helper()
		require.NoError(t, other.Commit())
	}
}

func (s *queueSuite) balance(t *testing.T, relay string, ttl time.Duration) []queue.Lane {
	t.Helper()
	owned, err := s.Balance(t.Context(), relay, ttl)
	require.NoError(t, err)
	return owned.Lanes
}

func (s *queueSuite) append(t *testing.T, messages ...queue.Message) {
	t.Helper()
	w := s.Begin(t)
	w.Append(t, messages)
	w.Commit(t)
}

func (s *queueSuite) claim(t *testing.T) []*queue.Claimed {
	t.Helper()
	claimed, _, err := s.Claim(t.Context(), allLanes(), 10_000, queue.Except{})
	require.NoError(t, err)
	return claimed
}

func (s *queueSuite) finish(t *testing.T, relay string, owned []queue.Lane, done queue.Outcome) {
	t.Helper()
	require.NoError(t, s.Finish(t.Context(), relay, owned, done))
}

func (s *queueSuite) status(t *testing.T) queue.Status {
	t.Helper()
	st, err := s.Status(t.Context())
	require.NoError(t, err)
	return st
}
