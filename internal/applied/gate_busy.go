package applied

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// LockFree is LockApplied for those keys that nobody else has locked; the others are busy. A
// transaction that waits for no lock for long (BatchLimits.Brief) needs it: of LockApplied one busy
// key would fail all. tx must be a transaction.
func (s *Tables) LockFree(
	ctx context.Context, tx bun.IDB, keys []Key,
) (locked map[Key]Applied, busy []Key, err error) {
	if s.dialect.ledgerMode() == ownLedger {
		locked, err = s.LockApplied(ctx, tx, keys)
		return locked, nil, err
	}
	known := make(map[Key]Applied, len(keys))
	sorted := slices.SortedFunc(slices.Values(keys), db.CompareKeys)
	free := make(map[Key]bool, len(keys))
	for chunk := range slices.Chunk(sorted, db.MaxKeys) {
		if err := s.readApplied(ctx, tx, chunk, known); err != nil {
			return nil, nil, fmt.Errorf("read %d keys in the replica's ledger: %w", len(keys), err)
		}
		if err := s.lockUnlocked(ctx, tx, chunk, free); err != nil {
			return nil, nil, fmt.Errorf("lock the free ones of %d keys in the replica's ledger: %w",
				len(keys), err)
		}
	}
	var ours, unknown []Key
	for _, k := range sorted {
		_, isKnown := known[k]
		switch {
		case free[k]:
			ours = append(ours, k)
		case isKnown:
			busy = append(busy, k)
		default:
			unknown = append(unknown, k)
		}
	}
	locked = make(map[Key]Applied, len(keys))
	if len(ours) > 0 { // again, because a row may be newer than what was read
		if locked, err = s.LockApplied(ctx, tx, ours); err != nil {
			return nil, nil, err
		}
	}
	// Somebody may be about to insert one of these, which no SELECT shows.
	taken, err := s.lockUnknown(ctx, tx, unknown, locked)
	return locked, append(busy, taken...), err
}

// lockUnlocked notes which of the keys have a row that nobody else has locked, and locks it.
func (s *Tables) lockUnlocked(
	ctx context.Context, tx bun.IDB, keys []Key, free map[Key]bool,
) error {
	rows, err := tx.QueryContext(ctx,
		s.SQL(`SELECT model, "key" FROM ? WHERE (model, "key") IN (?) `+s.dialect.LockRows()),
		s.Table("replica_revisions"), db.Tuples(keys))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var k Key
		if err := rows.Scan(&k.Model, &k.Key); err != nil {
			return err
		}
		free[k] = true
	}
	return rows.Err()
}

// lockUnknown makes and locks the rows of keys, and returns those for which it would have to wait.
// It finds them by halves, all of one size before smaller ones, so that few waits leave few keys in
// doubt. When it has waited often, those are busy, too.
func (s *Tables) lockUnknown(
	ctx context.Context, tx bun.IDB, keys []Key, into map[Key]Applied,
) (busy []Key, err error) {
	parts, waits := [][]Key{keys}, 0
	for len(parts) > 0 {
		part := parts[0]
		parts = parts[1:]
		if len(part) == 0 || waits >= s.BriefTries() {
			busy = append(busy, part...)
			continue
		}
		var locked map[Key]Applied
		err := tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) (err error) {
			locked, err = s.LockApplied(ctx, tx, part)
			return err
		})
		switch {
		case err == nil:
			maps.Copy(into, locked)
		case !db.LockTimedOut(err):
			return nil, err
		default:
			waits++
			if len(part) == 1 {
				busy = append(busy, part...)
			} else {
				parts = append(parts, part[:len(part)/2], part[len(part)/2:])
			}
		}
	}
	return busy, nil
}
