package admin

import (
	"context"
	"time"

	"github.com/cqrsync/cqrsync/internal/applied"
)

// WaitingFilter chooses messages that wait at a replica: those for which everything holds that is
// set. The zero value chooses all.
type WaitingFilter struct {
	Model, Key string
	// OlderThan chooses those that have waited so long, by the clock of the replica's database.
	OlderThan time.Duration
}

// WaitingMessage is one that a replica could not apply yet, and tries again by itself. Its names in
// JSON are never changed, only added.
type WaitingMessage struct {
	Model    string `json:"model"`
	Key      string `json:"key"`
	Revision int64  `json:"revision"`
	// Deleted says that it deletes the key's row.
	Deleted bool `json:"deleted"`
	// Attempts is how often it was tried, and Error why the last one failed.
	Attempts int    `json:"attempts"`
	Error    string `json:"error"`
	// Since is when it began to wait, and Next when it is tried again.
	Since time.Time `json:"since"`
	Next  time.Time `json:"next"`
	// Awaits is the revision of the same key that has to come before, nil for none.
	Awaits *int64 `json:"awaits,omitempty"`
}

func (r *Replica) waitingFilter(
	ctx context.Context, f WaitingFilter,
) (applied.WaitingFilter, error) {
	filter := applied.WaitingFilter{Model: f.Model, Key: f.Key}
	if f.OlderThan <= 0 {
		return filter, nil
	}
	now, err := r.tables.Now(ctx)
	filter.Before = now.Add(-f.OlderThan)
	return filter, err
}

// Waiting returns at most limit messages that wait, those that began first; 0 means all.
func (r *Replica) Waiting(
	ctx context.Context, f WaitingFilter, limit int,
) ([]WaitingMessage, error) {
	filter, err := r.waitingFilter(ctx, f)
	if err != nil {
		return nil, err
	}
	stored, err := r.tables.ListWaiting(ctx, filter, limit)
	all := make([]WaitingMessage, len(stored))
	for i, w := range stored {
		all[i] = WaitingMessage{
			Model: w.Model, Key: w.Key.Key, Revision: w.Revision, Deleted: w.Deleted,
			Attempts: w.Attempts, Error: w.Error, Since: w.Since, Next: w.Next, Awaits: w.Awaits,
		}
	}
	return all, err
}

// RetryWaiting makes messages that wait due now, and returns how many. A replica that runs tries
// them within about a second; one that awaits another revision of its key goes on doing so.
func (r *Replica) RetryWaiting(ctx context.Context, f WaitingFilter) (int64, error) {
	filter, err := r.waitingFilter(ctx, f)
	if err != nil {
		return 0, err
	}
	return r.tables.HastenWaiting(ctx, filter)
}

// DropWaiting forgets messages that wait, for good, and returns how many. The replica lacks what
// they say until a newer message of their key comes, or the key is sent again.
func (r *Replica) DropWaiting(ctx context.Context, f WaitingFilter) (int64, error) {
	filter, err := r.waitingFilter(ctx, f)
	if err != nil {
		return 0, err
	}
	return r.tables.DropWaiting(ctx, filter)
}
