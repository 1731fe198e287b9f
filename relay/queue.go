package relay

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// Queue is what a relay needs of the database with the outbox. Its types are cqrsync's own, so
// nobody else can implement it; tests run whole relays over one in memory.
type Queue interface {
	ownership
	finding
	removal
	inspection
}

// ownership shares the lanes out among relays, by leases on the database's clock. Leases are
// counted by the caller from before the call.
type ownership interface {
	// Enter takes lanes for a relay that knows nothing of those it may own.
	Enter(ctx context.Context, relay string, ttl time.Duration) (queue.Ownership, error)
	// Balance renews the lease, and gives or takes lanes. Nothing of them may be in flight.
	Balance(ctx context.Context, relay string, ttl time.Duration) (queue.Ownership, error)
	// Renew renews the lease.
	Renew(ctx context.Context, relay string, ttl time.Duration) (queue.Ownership, error)
	// Others says whether other relays are at work.
	Others(ctx context.Context, relay string) (bool, error)
	// Withdraw signs off if others are at work, and says whether they are.
	Withdraw(ctx context.Context, relay string) (others bool, err error)
	// SignOff leaves the lanes to run out.
	SignOff(ctx context.Context, relay string) error
	// Leave hands lanes back at once, where they are still the relay's under the tenures that lanes
	// names, and signs it off if it has no others.
	Leave(ctx context.Context, relay string, lanes []queue.Lane) error
}

// finding finds the messages that are to be sent. It takes no lock.
type finding interface {
	// Claim reads the oldest messages behind each start, and which lanes it did not read that far.
	Claim(
		ctx context.Context, starts []queue.Start, perLane int, except queue.Except,
	) (claimed []*queue.Claimed, unread []int, err error)
	// Glance is Claim for whoever concludes nothing from finding nothing.
	Glance(
		ctx context.Context, starts []queue.Start, perLane int, except queue.Except,
	) (claimed []*queue.Claimed, unread []int, err error)
	// Writers lists the transactions that may still add messages below those that were read. ok is
	// false where the database cannot tell.
	Writers(ctx context.Context) (writers queue.Writers, ok bool, err error)
	// WaitingLanes says which lanes have keys that wait for another attempt.
	WaitingLanes(ctx context.Context) (waiting func(lane int) bool, err error)
	// MakeDue ends the wait of keys.
	MakeDue(ctx context.Context, keys []queue.Key) error
}

// removal takes out of the outbox what need not be sent any more. What is not the relay's under
// the very tenures that lanes names stays. To do it again does no harm.
type removal interface {
	// Finish writes down what became of messages, in one transaction.
	Finish(ctx context.Context, relay string, lanes []queue.Lane, done queue.Outcome) error
	// FinishFree is Finish for what others hold locked in part.
	FinishFree(ctx context.Context, relay string, lanes []queue.Lane, done queue.Outcome) error
	// Supersede removes what newer messages replaced in memory, before these leave.
	Supersede(
		ctx context.Context, relay string, lanes []queue.Lane, list []queue.Superseding,
	) ([]queue.Superseded, error)
	// Compact drops what newer messages replace, among those that were not read yet.
	Compact(
		ctx context.Context, relay string, lanes []queue.Lane, starts []queue.Start, perLane int,
		limit time.Duration,
	) (queue.Compacted, error)
}

// inspection looks at the outbox as a whole.
type inspection interface {
	// RequireMigrated returns tables.ErrNotMigrated where tables are missing or older.
	RequireMigrated(ctx context.Context, side db.Side) error
	Status(ctx context.Context) (queue.Status, error)
	Progress(ctx context.Context, relay string) (queue.Progress, error)
}
