package replica

import "sync/atomic"

// outcome is what became of a delivery.
type outcome int

const (
	applied   outcome = iota
	gap               // applied, but a revision before it never came
	duplicate         // the ledger has this revision
	stale             // the ledger has a newer one
	ignored           // for another queue
	parked            // in the dead letters
	returned          // given back to the broker
	outcomes          // how many there are
)

func (o outcome) String() string {
	return [...]string{"applied", "gap", "duplicate", "stale", "ignored", "parked", "returned"}[o]
}

// Stats counts deliveries since New, by what became of them.
type Stats struct {
	// Applied changed the database, gaps included.
	Applied int64
	// Gaps were applied although a revision before them never came: the mirror is right, but something was lost on
	// the way, or the queue was bound later than the master began.
	Gaps int64
	// Duplicates and Stale were acknowledged without effect.
	Duplicates int64
	Stale      int64
	// Ignored were meant for another queue.
	Ignored int64
	// Parked are in replica_dead_letters.
	Parked int64
	// Returned could not be applied for now; the broker delivers them again.
	Returned int64
}

// Stats returns the counts so far.
func (r *Replica) Stats() Stats {
	n := func(o outcome) int64 { return r.counts[o].Load() }
	return Stats{
		Applied:    n(applied) + n(gap),
		Gaps:       n(gap),
		Duplicates: n(duplicate),
		Stale:      n(stale),
		Ignored:    n(ignored),
		Parked:     n(parked),
		Returned:   n(returned),
	}
}

type counters [outcomes]atomic.Int64
