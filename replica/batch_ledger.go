package replica

import (
	"context"
	"errors"

	"github.com/cqrsync/cqrsync/internal/applied"
	"github.com/cqrsync/cqrsync/internal/db"
)

var errLocked = errors.New("the key's row in the replica's ledger is locked, or was a moment ago")

// readLedger returns the ledger's rows of keys, without those that are locked where the batch does
// not wait for locks.
func (b *batch) readLedger(
	ctx context.Context, tx transaction, keys []db.Key,
) (map[db.Key]applied.Applied, error) {
	switch {
	case b.brief:
		return tx.lockFree(ctx, keys)
	case b.careful:
		return tx.lockLedger(ctx, keys)
	default:
		return tx.readLedger(ctx, keys)
	}
}

// applyAll is the cheap way. The ledger comes first: its locks keep competing consumers of the same
// keys out.
func (b *batch) applyAll(ctx context.Context, tx transaction) error {
	if err := b.settleLedger(ctx, tx); err != nil {
		return err
	}
	return b.write(ctx, tx, b.chains)
}

// settleLedger writes the ledger rows that the chains changed, and removes the placeholders of
// those that changed nothing.
func (b *batch) settleLedger(ctx context.Context, tx transaction) error {
	var rows []applied.Applied
	var unchanged []db.Key
	for _, c := range b.chains {
		switch {
		case len(c.passed) > 0:
			rows = append(rows, c.state)
		case c.keyed && !c.unread && c.before.Revision == applied.NeverApplied:
			unchanged = append(unchanged, c.key)
		}
	}
	for _, c := range b.deferred {
		if c.before.Revision == applied.NeverApplied && !c.unread {
			unchanged = append(unchanged, c.key)
		}
	}
	if len(unchanged) > 0 {
		if err := tx.forgetLocked(ctx, unchanged); err != nil {
			return err
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return tx.settleRows(ctx, rows)
}
