package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
)

// NeverApplied is the revision of a key that the replica's ledger does not know yet. Masters count from 0.
const NeverApplied int64 = -1

// Applied is a row of the replica's ledger: what a key was last brought to.
type Applied struct {
	Key
	// Revision is NeverApplied where no message of the key was applied.
	Revision int64
	// Deleted marks the tombstone of a key: the row is gone, its revision is not (P7).
	Deleted bool
	// Updated is the master's clock (cqrs_updated) in UTC; zero where no master sent one.
	Updated time.Time
}

// LockApplied returns the ledger rows of the keys, locked until the transaction ends, so that one consumer at a time
// decides about a key. It works for keys without a row too: the placeholder it inserts is what the second consumer
// waits for, and the update that changes nothing makes PostgreSQL lock and return the newest committed row, which a
// SELECT in the same snapshot would not see. A placeholder must be settled or rolled back.
//
// One statement, whatever the number of keys; keys must not repeat.
func (s *Store) LockApplied(ctx context.Context, tx bun.IDB, keys []Key) (map[Key]Applied, error) {
	sorted := slices.SortedFunc(slices.Values(keys), compareKeys)
	locked := make(map[Key]Applied, len(sorted))
	for chunk := range slices.Chunk(sorted, maxKeys) {
		if err := s.lockApplied(ctx, tx, chunk, locked); err != nil {
			return nil, fmt.Errorf("lock %d keys in the replica's ledger: %w", len(keys), err)
		}
	}
	return locked, nil
}

func (s *Store) lockApplied(ctx context.Context, tx bun.IDB, keys []Key, into map[Key]Applied) error {
	args := []any{s.table("replica_revisions")}
	for _, k := range keys {
		args = append(args, k.Model, k.Key, NeverApplied)
	}
	ledger := string(s.table("replica_revisions"))
	rows, err := tx.QueryContext(ctx, s.sql(`
		INSERT INTO ? (model, "key", revision)
		VALUES (?, ?, ?)`+strings.Repeat(", (?, ?, ?)", len(keys)-1)+`
		`+s.dialect.onConflict(`model, "key"`)+` revision = `+ledger+`.revision
		RETURNING model, "key", revision, deleted, `+s.dialect.micros("updated_at")), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var a Applied
		var updated *int64
		if err := rows.Scan(&a.Model, &a.Key.Key, &a.Revision, &a.Deleted, &updated); err != nil {
			return err
		}
		if updated != nil {
			a.Updated = time.UnixMicro(*updated).UTC()
		}
		into[a.Key] = a
	}
	return rows.Err()
}

// SettleApplied writes the ledger rows of keys that LockApplied locked in the same transaction. One statement,
// whatever the number of rows; keys must not repeat.
func (s *Store) SettleApplied(ctx context.Context, tx bun.IDB, rows []Applied) error {
	sorted := slices.SortedFunc(slices.Values(rows), func(a, b Applied) int { return compareKeys(a.Key, b.Key) })
	for chunk := range slices.Chunk(sorted, maxKeys) {
		args := []any{s.table("replica_revisions")}
		for _, a := range chunk {
			var updated any
			if !a.Updated.IsZero() {
				updated = s.dialect.time(a.Updated)
			}
			args = append(args, a.Model, a.Key.Key, a.Revision, a.Deleted, updated)
		}
		_, err := tx.ExecContext(ctx, s.sql(`
			INSERT INTO ? (model, "key", revision, deleted, updated_at)
			VALUES (?, ?, ?, ?, ?)`+strings.Repeat(", (?, ?, ?, ?, ?)", len(chunk)-1)+
			s.upsert(`model, "key"`, "revision", "deleted", "updated_at")), args...)
		if err != nil {
			return fmt.Errorf("settle %d keys in the replica's ledger: %w", len(rows), err)
		}
	}
	return nil
}
