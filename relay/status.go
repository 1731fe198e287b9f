package relay

import (
	"context"

	"github.com/cqrsync/cqrsync/internal/store"
)

// Status is the state of the whole outbox at one moment, by the database's clock.
type Status = store.Status

// Progress is what one relay has before it.
type Progress = store.Progress

// ID names this relay in outbox_lanes and in logs.
func (r *Relay) ID() string { return r.cfg.ID }

// Status reads the state of the outbox. What is more than 100,000 is not counted but estimated, so it takes about as long
// however large the backlog is. It may be called at any time.
func (r *Relay) Status(ctx context.Context) (Status, error) { return r.store.Status(ctx) }

// Progress reads how things stand in the lanes of this relay. It is cheap, and may be called at any time.
func (r *Relay) Progress(ctx context.Context) (Progress, error) {
	return r.store.Progress(ctx, r.cfg.ID)
}
