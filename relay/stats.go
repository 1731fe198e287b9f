package relay

import "sync/atomic"

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

type counters struct {
	published, compacted, batches, retries, deadLetters, lanes, leasesLost atomic.Int64
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
