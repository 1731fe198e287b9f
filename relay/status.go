package relay

import (
	"context"
	"time"
)

// Status is the state of the whole outbox at one moment, by the database's clock.
type Status struct {
	// Unsent counts the messages that no broker has confirmed.
	Unsent int64
	// OldestAge is how long the oldest of them has waited, zero when there is none: of those that
	// were written first in their lanes.
	OldestAge time.Duration
	// Retries counts the keys whose oldest message failed and waits for another attempt.
	Retries int64
	// DeadLetters counts the messages that were given up.
	DeadLetters int64
	// UnsentEstimated, RetriesEstimated and DeadLettersEstimated say that there are so many, at
	// least 100,000, that they were not counted: the number is about right.
	UnsentEstimated, RetriesEstimated, DeadLettersEstimated bool
	// Relays counts the live relays.
	Relays int64
	// Lanes counts the lanes, and LanesOwned those with a live owner.
	Lanes, LanesOwned int64
	// LanesAhead counts lanes with an owner whose lease ends later than it can, because the
	// database's clock went back. Relays take them when the owner has not renewed the lease for as
	// long as it was.
	LanesAhead int64
}

// Progress is what one relay has before it, by the database's clock.
type Progress struct {
	// Lanes counts all lanes, Owned those with a live owner, and Own those that are this relay's.
	Lanes, Owned, Own int64
	// OldestAge is how long the oldest message has waited that may leave from the relay's own
	// lanes, zero when there is none. Messages of keys that wait for another attempt do not count.
	OldestAge time.Duration
	// OrphanAge is that of the oldest message of the lanes that have no live owner.
	OrphanAge time.Duration
}

// ID names this relay in outbox_lanes and in logs.
func (r *Relay) ID() string { return r.cfg.ID }

// Status reads the state of the outbox. What is more than 100,000 is not counted but estimated, so
// it takes about as long however large the backlog is. It may be called at any time.
func (r *Relay) Status(ctx context.Context) (Status, error) {
	s, err := r.queue.Status(ctx)
	return Status(s), err
}

// Progress reads how things stand in the lanes of this relay. It is cheap, and may be called at any
// time.
func (r *Relay) Progress(ctx context.Context) (Progress, error) {
	p, err := r.queue.Progress(ctx, r.cfg.ID)
	return Progress(p), err
}
