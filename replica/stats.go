package replica

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/delay"
)

// Outcome is what became of a message.
type Outcome int

// The outcomes. Every message ends with one of them, and Stats counts each.
const (
	// Applied changed the database, or was handled.
	Applied Outcome = iota
	// AppliedGap was applied although a message before it had not come.
	AppliedGap
	// Duplicate had no effect: the ledger has this revision.
	Duplicate
	// Stale had no effect: the ledger, or what waits for the key, is newer.
	Stale
	// Ignored was meant for another queue.
	Ignored
	// Discarded had no effect because its handler said so.
	Discarded
	// Waiting could not be applied yet and is kept in replica_waiting.
	Waiting
	// DeadLettered can never be applied and is kept in the dead letters.
	DeadLettered
	// Returned could not even be kept: the broker delivers it again.
	Returned
	outcomes // how many there are
)

func (o Outcome) String() string {
	if o < 0 || o >= outcomes {
		return fmt.Sprintf("Outcome(%d)", int(o))
	}
	return [...]string{
		"applied", "gap", "duplicate", "stale", "ignored", "discarded", "waiting", "dead_letter",
		"returned",
	}[o]
}

// effective says that the message changes the ledger.
func (o Outcome) effective() bool { return o == Applied || o == AppliedGap }

// Reason is why a message is a dead letter.
type Reason int

// The reasons.
const (
	// Unreadable is no message: not JSON, a key is missing, an unknown signal.
	Unreadable Reason = iota
	// TooLarge is a body beyond Config.MaxPayload.
	TooLarge
	// UnknownModel is a CQRS id that nobody registered.
	UnknownModel
	// Expired is a state that the master no longer vouches for.
	Expired
	// Unfit does not fit the table or the type, or its handler said Permanent.
	Unfit
	// Exhausted failed as often as its retry policy allows.
	Exhausted
	reasons // how many there are
)

func (r Reason) String() string {
	if r < 0 || r >= reasons {
		return fmt.Sprintf("Reason(%d)", int(r))
	}
	return [...]string{"unreadable", "too_large", "unknown_model", "expired", "unfit",
		"exhausted"}[r]
}

// Stats counts messages since New, by what became of them. A message that waited counts again when
// it is tried again.
type Stats struct {
	// Applied changed the database, gaps included.
	Applied int64
	// Gaps were applied although a revision before them never came, not even within
	// Config.WaitForMissing: the mirror is right, but something was lost on the way, or the queue
	// was bound later than the master began.
	Gaps int64
	// Duplicates and Stale were acknowledged without effect.
	Duplicates int64
	Stale      int64
	// Overtaken of the stale ones are later than what the replica has: the master went back to an
	// earlier state.
	Overtaken int64
	// MasterChanges is how often messages of another incarnation of a master began to come.
	MasterChanges int64
	// Ignored were meant for another queue.
	Ignored int64
	// Discarded had no effect because their handler said so.
	Discarded int64
	// Waiting is how often a message was put into replica_waiting, or back.
	Waiting int64
	// DeadLettered are in the dead letters.
	DeadLettered int64
	// Returned could not be applied or kept for now; the broker delivers them again.
	Returned int64
}

// Stats returns the counts so far.
func (r *Replica) Stats() Stats {
	n := func(o Outcome) int64 { return r.counts.outcomes[o].Load() }
	return Stats{
		Applied:    n(Applied) + n(AppliedGap),
		Gaps:       r.counts.gaps.Load(),
		Duplicates: n(Duplicate),
		Stale:      n(Stale),
		Overtaken:  r.counts.overtaken.Load(), MasterChanges: r.counts.changes.Load(),
		Ignored:      n(Ignored),
		Discarded:    n(Discarded),
		Waiting:      n(Waiting),
		DeadLettered: n(DeadLettered),
		Returned:     n(Returned),
	}
}

// ModelStats counts what was applied of a model since New.
type ModelStats struct {
	// Applied messages changed the database, or were handled.
	Applied uint64
	// Timed of them told of a change, and were not sent on request. Took is how long these took
	// together, from the master's change to its effect here; Within says of some times how many took
	// no longer. The master's clock is compared with that of this process.
	Timed  uint64
	Took   time.Duration
	Within map[time.Duration]uint64
}

// ModelStats returns the counts of each registered model of which something was applied.
func (r *Replica) ModelStats() map[string]ModelStats {
	all := map[string]ModelStats{}
	for model, c := range r.counts.models.Each() {
		all[model] = ModelStats{c.Messages, c.Timed, c.Sum, c.Within}
	}
	return all
}

// DeadLetters returns how many messages became dead letters since New, by reason.
func (r *Replica) DeadLetters() map[Reason]int64 {
	counts := make(map[Reason]int64, reasons)
	for reason := range reasons {
		counts[reason] = r.counts.reasons[reason].Load()
	}
	return counts
}

type counters struct {
	outcomes [outcomes]atomic.Int64
	gaps     atomic.Int64
	reasons  [reasons]atomic.Int64

	overtaken, changes atomic.Int64

	models delay.Models
}

// applied counts a message that had an effect.
func (c *counters) applied(m *envelope.Message, now time.Time) {
	if m.Updated.IsZero() || m.Signal == envelope.Sync {
		c.models.Add(m.Model)
		return
	}
	c.models.AddTook(m.Model, now.Sub(m.Updated))
}
