package replica

import (
	"context"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

// room is where a replica keeps its ledger, what waits and its dead letters. tableRoom is the one
// in the database. Tests have one in memory.
type room interface {
	waitingRoom
	deadLetters

	// transact runs use in one transaction, which is what an ack stands for.
	transact(ctx context.Context, l db.BatchLimits,
		use func(context.Context, transaction) error) error
	// briefTries is how often a brief transaction may wait for a lock.
	briefTries() int
	// hidesWhose says that a COMMIT which fails by a foreign key does not say whose it was.
	hidesWhose() bool
	// mostText is how many bytes of a body can be kept.
	mostText() int

	// applied is the ledger's row of a key, read without a lock.
	applied(ctx context.Context, key db.Key) (applied.Applied, error)
	// takePassed takes up to n revisions that were passed over and whose time is up.
	takePassed(ctx context.Context, n int) ([]applied.Passed, error)
	// collectTombstones forgets up to n deleted keys that are older than age.
	collectTombstones(ctx context.Context, age time.Duration, n int) (int64, error)
}

// waitingRoom is where messages wait that cannot be applied yet, as seen from outside of batches.
type waitingRoom interface {
	// nextWaiting says in how long the next message is due, and whether any waits.
	nextWaiting(ctx context.Context) (in time.Duration, some bool, err error)
	// claimWaiting takes up to n messages that are due. They are due again after lease.
	claimWaiting(ctx context.Context, n int, lease time.Duration) ([]applied.Waiting, error)
	// releaseWaiting makes due what waits for one of the parents.
	releaseWaiting(ctx context.Context, parents []db.Key) (int64, error)
	// countWaiting is how many messages wait, by model.
	countWaiting(ctx context.Context) (map[string]int64, error)
}

// deadLetters says what became of messages that a later one waits for.
type deadLetters interface {
	// deadLetterAfter says whether a revision is a dead letter, and which one was sent before it.
	deadLetterAfter(ctx context.Context, model, key string, revision int64) (dead bool,
		after *int64, err error)
}

// transaction is one transaction of a batch. What it did is there after its commit, or not at all.
type transaction interface {
	ledger
	waitingList
	deadLetters

	// addDeadLetter keeps a message that can never be applied.
	addDeadLetter(ctx context.Context, letter applied.DeadLetter) error
	// addPassed notes revisions that were passed over, closePassed that one came after all.
	addPassed(ctx context.Context, passed []applied.Passed, in time.Duration) error
	closePassed(ctx context.Context, late []applied.Late) error

	// savepoint undoes what use did when it fails. An *outageError means that the transaction is of
	// no use any more.
	savepoint(ctx context.Context, use func(transaction) error) error
	// blameAtOnce has constraints checked by each statement: by the COMMIT nobody could tell whose
	// it was.
	blameAtOnce(ctx context.Context) error
	// violations counts the foreign keys that are broken. It reads all tables.
	violations(ctx context.Context) (int, error)
	// service is the transaction as the service's own code and the mirrors know it.
	service() bun.Tx
}

// ledger is the revisions of keys.
type ledger interface {
	// readLedger returns the rows of keys for settleRows, which reports applied.ErrOvertaken where
	// another consumer was faster. lockLedger waits for the others. lockFree leaves out what they
	// have.
	readLedger(ctx context.Context, keys []db.Key) (map[db.Key]applied.Applied, error)
	lockLedger(ctx context.Context, keys []db.Key) (map[db.Key]applied.Applied, error)
	lockFree(ctx context.Context, keys []db.Key) (map[db.Key]applied.Applied, error)
	settleRows(ctx context.Context, rows []applied.Applied) error
	// forgetLocked removes the placeholders of keys that are not to be settled after all.
	forgetLocked(ctx context.Context, keys []db.Key) error
}

// waitingList is the waiting room within a batch.
type waitingList interface {
	// addWaiting keeps messages, each in place of itself only.
	addWaiting(ctx context.Context, rows []applied.Waiting) error
	// waitingFor is what the ledger will hold when the newest waiting message of each key is
	// applied.
	waitingFor(ctx context.Context, keys []db.Key) (map[db.Key]applied.Applied, error)
	// forgetWaiting removes what waits for the keys and no revision: something newer stands for it.
	forgetWaiting(ctx context.Context, keys []db.Key) error
	// removeWaiting removes messages that wait no more.
	removeWaiting(ctx context.Context, rows []applied.Applied) error
	// releaseNext makes due what waits for a revision that its key has reached, and says how many.
	releaseNext(ctx context.Context, reached map[db.Key]int64) (int64, error)
	// waitingOf returns what waits of keys, waitingIn up to n messages that wait of a model.
	waitingOf(ctx context.Context, keys []db.Key) ([]applied.Waiting, error)
	waitingIn(ctx context.Context, model string, n int) ([]applied.Waiting, error)
}
