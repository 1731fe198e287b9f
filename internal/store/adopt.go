package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// AdoptedRevisions is what AdoptRevisions did.
type AdoptedRevisions struct {
	// Taken keys have the given revision.
	Taken int64
	// Overtaken keys were written here since the given time, with a revision that is not newer. They
	// have the one after the given one: replicas have not taken what was sent of them.
	Overtaken map[string]bool
}

// AdoptRevisions brings the revisions that another master gave to keys of a model into the ledger.
// Keys of which the ledger has a newer one, or a tombstone, are left alone. All are locked until the
// transaction ends.
func (s *Store) AdoptRevisions(
	ctx context.Context, tx bun.IDB, model string, given []Known,
) (AdoptedRevisions, error) {
	byKey := make(map[string]Known, len(given))
	for _, k := range given {
		byKey[k.Key] = k
	}
	keys := slices.Sorted(maps.Keys(byKey))
	done := AdoptedRevisions{Overtaken: map[string]bool{}}
	before, err := s.LockKnown(ctx, tx, Outbox, model, keys)
	if err != nil {
		return done, err
	}
	unknown := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, found := before[key]
		return found
	})
	// Who writes a key meanwhile makes its row first, or waits for this one.
	ledger := string(s.ledger(Outbox))
	if err := s.writeRevisions(ctx, tx, model, unknown, byKey,
		s.dialect.OnConflict(`model, "key"`)+" revision = "+ledger+".revision"); err != nil {
		return done, err
	}
	made, err := s.LockKnown(ctx, tx, Outbox, model, unknown)
	if err != nil {
		return done, err
	}
	maps.Copy(before, made)
	var behind []string
	for _, key := range keys {
		now, theirs := before[key], byKey[key]
		switch {
		case now.Deleted || now.Revision > theirs.Revision:
		case now.Revision == theirs.Revision:
			if _, is := made[key]; is {
				done.Taken++
			}
		case now.Updated.Before(theirs.Updated): // it was adopted before, and the other master went on
			done.Taken++
			behind = append(behind, key)
		default:
			done.Overtaken[key] = true
			theirs.Revision++
			theirs.Updated = now.Updated
			byKey[key] = theirs
			behind = append(behind, key)
		}
	}
	return done, s.writeRevisions(ctx, tx, model, behind, byKey,
		s.Upsert(`model, "key"`, "revision", "produced", "updated_at"))
}

// writeRevisions writes ledger rows of keys that replicas have. conflict is what it does with those
// that are there.
func (s *Store) writeRevisions(
	ctx context.Context, tx bun.IDB, model string, keys []string, rows map[string]Known, conflict string,
) error {
	for chunk := range slices.Chunk(keys, db.MaxKeys) {
		args := []any{s.ledger(Outbox)}
		for _, key := range chunk {
			k := rows[key]
			args = append(args, model, key, k.Revision, k.Revision, s.dialect.Time(k.Updated))
		}
		const row = "(?, ?, ?, ?, ?)"
		_, err := tx.ExecContext(ctx, s.SQL(`INSERT INTO ? (model, "key", revision, produced, updated_at) VALUES `+
			row+strings.Repeat(", "+row, len(chunk)-1)+" "+conflict), args...)
		if err != nil {
			return fmt.Errorf("write %d revisions of %s into the ledger: %w", len(keys), model, err)
		}
	}
	return nil
}
