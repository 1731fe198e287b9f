package store

import (
	"context"
	"fmt"
	"slices"

	"github.com/uptrace/bun"
)

// LockFree is LockApplied for those keys that nobody else has locked; the others are busy. A transaction that waits for no lock
// for long (BatchLimits.Brief) needs it: of LockApplied one busy key would fail all. tx must be a transaction.
func (s *Store) LockFree(ctx context.Context, tx bun.IDB, keys []Key) (locked map[Key]Applied, busy []Key, err error) {
	if s.dialect.ledgerMode() == ownLedger {
		locked, err = s.LockApplied(ctx, tx, keys)
		return locked, nil, err
	}
	known := make(map[Key]Applied, len(keys))
	sorted := slices.SortedFunc(slices.Values(keys), compareKeys)
	free := make(map[Key]bool, len(keys))
	for chunk := range slices.Chunk(sorted, maxKeys) {
		if err := s.readApplied(ctx, tx, chunk, known); err != nil {
			return nil, nil, fmt.Errorf("read %d keys in the replica's ledger: %w", len(keys), err)
		}
		if err := s.lockUnlocked(ctx, tx, chunk, free); err != nil {
			return nil, nil, fmt.Errorf("lock the free ones of %d keys in the replica's ledger: %w", len(keys), err)
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
	patience := maxBusy
	taken, err := s.lockUnknown(ctx, tx, unknown, locked, &patience)
	return locked, append(busy, taken...), err
}

// maxBusy is how often LockFree waits for a key that is being inserted. Then all that are left count as busy.
const maxBusy = 8

// lockUnlocked notes which of the keys have a row that nobody else has locked, and locks it.
func (s *Store) lockUnlocked(ctx context.Context, tx bun.IDB, keys []Key, free map[Key]bool) error {
	rows, err := tx.QueryContext(ctx, s.sql(`SELECT model, "key" FROM ? WHERE (model, "key") IN (?) `+s.dialect.lockRows()),
		s.table("replica_revisions"), tuples(keys))
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

// lockUnknown makes and locks the rows of keys, and returns those for which it would have to wait, found by halves.
func (s *Store) lockUnknown(
	ctx context.Context, tx bun.IDB, keys []Key, into map[Key]Applied, patience *int,
) (busy []Key, err error) {
	if len(keys) == 0 || *patience == 0 {
		return keys, nil
	}
	err = tx.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		locked, err := s.LockApplied(ctx, tx, keys)
		for k, a := range locked {
			if err == nil {
				into[k] = a
			}
		}
		return err
	})
	if !lockTimedOut(err) {
		return nil, err
	}
	if *patience--; len(keys) == 1 {
		return keys, nil
	}
	for _, half := range [][]Key{keys[:len(keys)/2], keys[len(keys)/2:]} {
		more, err := s.lockUnknown(ctx, tx, half, into, patience)
		if err != nil {
			return nil, err
		}
		busy = append(busy, more...)
	}
	return busy, nil
}
