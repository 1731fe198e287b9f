package admin

import (
	"context"
	"fmt"
	"time"

	"github.com/cqrsync/cqrsync/internal/ledger"
	"github.com/cqrsync/cqrsync/internal/queue"
	"github.com/cqrsync/cqrsync/internal/registry"
)

// Master is the outbox of one database. It is safe for concurrent use.
type Master struct {
	queue    *queue.Queue
	ledger   *ledger.Revisions
	registry *registry.Registry
}

// MasterStatus is the state of an outbox at one moment, by the database's clock.
type MasterStatus struct {
	// Unsent counts the messages that no broker has confirmed.
	Unsent int64
	// OldestAge is how long the oldest of them has waited, zero where there is none: of those that
	// were written first in their lanes.
	OldestAge time.Duration
	// Retries counts the keys whose oldest message failed and waits for another attempt.
	Retries int64
	// DeadLetters counts the messages that were given up.
	DeadLetters int64
	// UnsentEstimated, RetriesEstimated and DeadLettersEstimated say that there are more than
	// 100,000, which are not counted: the number is about right.
	UnsentEstimated, RetriesEstimated, DeadLettersEstimated bool
	// Relays counts the live relays.
	Relays int64
	// Lanes counts the lanes, and LanesOwned those with a live owner.
	Lanes, LanesOwned int64
	// LanesAhead counts lanes whose lease ends later than it can, because the database's clock went
	// back. Relays take them when the owner has not renewed the lease for as long as it was.
	LanesAhead int64
	// Incarnation is the course of history that the database is on.
	Incarnation Incarnation
}

// Status reads the state of the outbox. It takes about as long whatever the backlog is.
func (m *Master) Status(ctx context.Context) (MasterStatus, error) {
	st, err := m.queue.Status(ctx)
	if err != nil {
		return MasterStatus{}, err
	}
	incarnation, err := m.Incarnation(ctx)
	return MasterStatus{
		Unsent: st.Unsent, OldestAge: st.OldestAge, Retries: st.Retries, DeadLetters: st.DeadLetters,
		UnsentEstimated: st.UnsentEstimated, RetriesEstimated: st.RetriesEstimated,
		DeadLettersEstimated: st.DeadLettersEstimated,
		Relays:               st.Relays, Lanes: st.Lanes,
		LanesOwned: st.LanesOwned, LanesAhead: st.LanesAhead,
		Incarnation: incarnation,
	}, err
}

// Incarnation names the course of history that a master's database is on. Its names in JSON are
// never changed.
type Incarnation struct {
	// ID is how replicas know it.
	ID string `json:"incarnation"`
	// Drawn is when it was drawn, by the database's clock.
	Drawn time.Time `json:"drawn"`
	// Reason is why it was drawn.
	Reason string `json:"reason"`
}

// First says that it is the one that was drawn when the tables were made.
func (i Incarnation) First() bool { return queue.Incarnation(i).First() }

// Incarnation returns the present one.
func (m *Master) Incarnation(ctx context.Context) (Incarnation, error) {
	i, err := m.queue.Incarnation(ctx)
	return Incarnation(i), err
}

// DrawIncarnation draws another one, after the database was restored in a way that nobody could
// notice: a copied SQLite file, a snapshot of disks. It is for before a relay starts on it.
func (m *Master) DrawIncarnation(ctx context.Context, reason string) (Incarnation, error) {
	i, err := m.queue.DrawIncarnation(ctx, reason)
	return Incarnation(i), err
}

// LeastForgotten is how old a deleted key must be at least to be forgotten: what replicas remember
// by default.
const LeastForgotten = 90 * 24 * time.Hour

// ForgetDeleted makes the ledger forget keys of a model that were deleted so long ago, at least
// [LeastForgotten], and returns how many. A key that is created again begins at revision 0 then,
// and a replica that remembers the deletion ignores it: olderThan must be longer than the
// KeepTombstones of every replica.
func (m *Master) ForgetDeleted(
	ctx context.Context, model string, olderThan time.Duration,
) (int64, error) {
	if olderThan < LeastForgotten {
		return 0, fmt.Errorf("forget keys deleted %s ago: want %s or more",
			olderThan, LeastForgotten)
	}
	return m.ledger.ForgetDeleted(ctx, model, olderThan)
}
