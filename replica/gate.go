package replica

import (
	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/applied"
)

// gate decides what a message does to its key, from the key's ledger row alone. It is the table
// "The gate" of the wire format; every row of it is a test case.
//
// Masters of this library never restart a revision, and their time grows with it: for them the
// revision decides. The comparisons of time are for django-cqrs, which starts at 0 again when a key
// is created again, sends a DELETE with a revision that may be too low, and may send two states
// under one revision.
func gate(ledger applied.Applied, m *envelope.Message) Outcome {
	newer, same := m.Revision > ledger.Revision, m.Revision == ledger.Revision
	later := isLater(m, ledger)
	switch {
	case ledger.Revision == applied.NeverApplied:
		return Applied
	case forced(m, ledger):
		return Applied
	case ledger.Deleted && m.Signal == envelope.Sync && same && sameTime(m, ledger):
		// A real DELETE has a time of its own. This tombstone has that of the state before, so a
		// comparison wrote it here, and the master still has the row.
		return Applied
	case ledger.Deleted:
		// For SAVE and SYNC: created again. For DELETE: the tombstone moves on, although there is
		// no row, or else the save before this delete would find an old tombstone when it arrives
		// late, and resurrect the row (P7).
		return either(newer || later, Applied, Stale)
	case m.Signal == envelope.Delete:
		return either(newer || same || later || sameTime(m, ledger), Applied, Stale)
	case m.Signal == envelope.Sync:
		// A lower revision that is later: a django-cqrs master created the key again, or the master
		// went back.
		return either(newer || same || later, Applied, Stale)
	case newer:
		return either(isGap(ledger, m), AppliedGap, Applied)
	case same:
		return either(later, Applied, Duplicate)
	default:
		return either(m.Revision == 0 && later, Applied, Stale)
	}
}

// isGap says that a revision between the ledger's and the message's is missing. The message's full
// state makes up for it in a mirror; a handler did not see it.
func isGap(ledger applied.Applied, m *envelope.Message) bool {
	if m.After != nil {
		return *m.After > ledger.Revision
	}
	return m.Revision > ledger.Revision+1
}

// settled is the ledger row after the gate let a message pass.
func settled(ledger applied.Applied, m *envelope.Message) applied.Applied {
	next := ledger // with what the store has to know of the row
	next.Revision, next.Updated, next.Deleted = m.Revision, m.Updated, m.Signal == envelope.Delete
	if forced(m, ledger) {
		// the master went back in time; so must the ledger, or it would refuse what follows
		return next
	}
	if next.Deleted {
		// A DELETE whose revision is too low must not let the saves before it look newer than the
		// tombstone.
		next.Revision = max(next.Revision, ledger.Revision)
	}
	if ledger.Updated.After(next.Updated) {
		next.Updated = ledger.Updated
	}
	return next
}

// forced is a SYNC that an operator sent because the master was restored from a backup: it passes
// whatever the ledger says, tombstones included. That of a comparison passes only what is not later
// than the comparison began: what the master does not know any more of that time it has lost, and
// whatever it wrote since is later.
func forced(m *envelope.Message, ledger applied.Applied) bool {
	switch {
	case m.Signal != envelope.Sync:
		return false
	case m.Force:
		return true
	}
	return !m.ForceUntil.IsZero() && m.Revision <= ledger.Revision &&
		!ledger.Updated.After(m.ForceUntil)
}

// mayForce says that a message knows no order.
func mayForce(m *envelope.Message) bool {
	return m.Signal == envelope.Sync && (m.Force || !m.ForceUntil.IsZero())
}

// An unknown time is neither later nor the same: it decides nothing.

func isLater(m *envelope.Message, ledger applied.Applied) bool {
	return !ledger.Updated.IsZero() && m.Updated.After(ledger.Updated)
}

func sameTime(m *envelope.Message, ledger applied.Applied) bool {
	return !ledger.Updated.IsZero() && m.Updated.Equal(ledger.Updated)
}

func either(condition bool, yes, no Outcome) Outcome {
	if condition {
		return yes
	}
	return no
}
