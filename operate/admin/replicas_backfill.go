package admin

import (
	"time"

	"github.com/cqrsync/cqrsync/internal/registry"
)

// ReplicaBackfill sends all of a model to a replica, or what a filter selects.
type ReplicaBackfill struct {
	// State is running while somebody does it, waiting while nobody does, done at its end.
	State string `json:"state"`
	// Filter selects the rows; {} is all of them.
	Filter string `json:"filter"`
	// Sent rows are in the queue, or were. Bad ones cannot be sent.
	Sent int64 `json:"sent"`
	Bad  int64 `json:"bad"`
	// Total is how many there are about; nil where nobody has counted them.
	Total *int64 `json:"total"`
	// Error is why it does not go on, or why the last bad row cannot be sent.
	Error string `json:"error"`
	// Asked is when it was asked for, Moved when it went on last, Finished when it ended.
	Asked    time.Time  `json:"asked"`
	Moved    time.Time  `json:"moved"`
	Finished *time.Time `json:"finished"`
}

// The states of a backfill.
const (
	BackfillWaiting = "waiting"
	BackfillRunning = "running"
	BackfillDone    = "done"
)

func backfillOf(all []registry.Backfill, queue, model string, now time.Time) *ReplicaBackfill {
	for _, b := range all {
		if b.Queue != queue || b.Model != model {
			continue
		}
		r := &ReplicaBackfill{
			State: BackfillWaiting, Filter: b.Filter, Sent: b.Sent, Bad: b.Bad, Error: b.Error,
			Asked: b.Asked, Moved: b.Updated, Finished: timeOrNil(b.Finished),
		}
		if b.Total >= 0 {
			r.Total = &b.Total
		}
		switch {
		case r.Finished != nil:
			r.State = BackfillDone
		case b.Owner != "" && now.Before(b.Expires):
			r.State = BackfillRunning
		}
		return r
	}
	return nil
}
