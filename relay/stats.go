package relay

import (
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/internal/delay"
	"github.com/cqrsync/cqrsync/internal/queue"
)

// Stats counts what a relay has done since it was made.
type Stats struct {
	// Published messages were confirmed by the broker.
	Published int64
	// Compacted messages were dropped because a newer one of their key replaces them.
	Compacted int64
	// Batches were handed to the publisher.
	Batches int64
	// Retries is how often a message failed for a reason of its own and was left for another
	// attempt.
	Retries int64
	// DeadLetters were given up.
	DeadLetters int64
	// Lanes is how many lanes the relay owns now.
	Lanes int64
	// LeasesLost is how often the lanes were lost otherwise than by handing them over.
	LeasesLost int64
	// BrokerAway and DatabaseAway say that it waits for one of them.
	BrokerAway, DatabaseAway bool
}

// ModelStats counts what a relay has published of a model since it was made.
type ModelStats struct {
	// Published messages were confirmed by the broker.
	Published uint64
	// Timed of them told of a change, and were not sent on request. Took is how long these took
	// together, from when they were written to the confirm; Within says of some times how many took
	// no longer. The clock of the database is compared with that of this process.
	Timed  uint64
	Took   time.Duration
	Within map[time.Duration]uint64
}

// ModelStats returns the counters of each model, of the first thousand; those beyond count together
// as "(other)". It may be called at any time.
func (r *Relay) ModelStats() map[string]ModelStats {
	all := map[string]ModelStats{}
	for model, c := range r.stats.models.Each() {
		all[model] = ModelStats{c.Messages, c.Timed, c.Sum, c.Within}
	}
	return all
}

type counters struct {
	published, compacted, batches, retries, deadLetters, lanes, leasesLost atomic.Int64

	models delay.Models
}

// confirmed counts a message that the broker has.
func (c *counters) confirmed(m *queue.Claimed, now time.Time) {
	c.published.Add(1)
	if m.Created.IsZero() || m.Signal == "SYNC" {
		c.models.Add(m.Model)
		return
	}
	c.models.AddTook(m.Model, now.Sub(m.Created))
}

// Stats returns the counters. It may be called at any time.
func (r *Relay) Stats() Stats {
	return Stats{
		Published:    r.stats.published.Load(),
		Compacted:    r.stats.compacted.Load(),
		Batches:      r.stats.batches.Load(),
		Retries:      r.stats.retries.Load(),
		DeadLetters:  r.stats.deadLetters.Load(),
		Lanes:        r.stats.lanes.Load(),
		LeasesLost:   r.stats.leasesLost.Load(),
		BrokerAway:   r.broker.away.Load(),
		DatabaseAway: r.database.away.Load(),
	}
}
