package ledger

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
	// Overtaken keys were written here since the given time, with a revision that is not newer.
	// They have the one after the given one: replicas have not taken what was sent of them.
	Overtaken map[string]bool
}

// AdoptRevisions brings the revisions that another master gave to keys of a model into the ledger.
// Keys of which the ledger has a newer one, or a tombstone, are left alone. All are locked until
// the transaction ends.
func (l *Revisions) AdoptRevisions(
	ctx context.Context, tx bun.IDB, model string, given []Known,
) (AdoptedRevisions, error) {
	byKey := make(map[string]Known, len(given))
	for _, k := range given {
		byKey[k.Key] = k
	}
	keys := slices.Sorted(maps.Keys(byKey))
	done := AdoptedRevisions{Overtaken: map[string]bool{}}
	before, err := l.LockKnown(ctx, tx, model, keys)
	if err != nil {
		return done, err
	}
	unknown := slices.DeleteFunc(slices.Clone(keys), func(key string) bool {
		_, found := before[key]
		return found
	})
	// Who writes a key meanwhile makes its row first, or waits for this one.
	ledger := string(l.table)
	if err := l.writeRevisions(ctx, tx, model, unknown, byKey,
		l.dialect.OnConflict(`model, "key"`)+" revision = "+ledger+".revision"); err != nil {
		return done, err
	}
	made, err := l.LockKnown(ctx, tx, model, unknown)
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
	return done, l.writeRevisions(ctx, tx, model, behind, byKey,
		l.Upsert(`model, "key"`, "revision", "produced", "updated_at"))
}

// writeRevisions writes ledger rows of keys that replicas have. conflict is what it does with those
// that are there.
func (l *Revisions) writeRevisions(
	ctx context.Context, tx bun.IDB, model string, keys []string, rows map[string]Known,
	conflict string,
) error {
	for chunk := range slices.Chunk(keys, db.MaxKeys) {
		args := []any{l.table}
		for _, key := range chunk {
			k := rows[key]
			args = append(args, model, key, k.Revision, k.Revision, l.dialect.Time(k.Updated))
		}
		const row = "(?, ?, ?, ?, ?)"
		_, err := tx.ExecContext(ctx, l.SQL(`
			INSERT INTO ? (model, "key", revision, produced, updated_at) VALUES `+
			row+strings.Repeat(", "+row, len(chunk)-1)+" "+conflict), args...)
		if err != nil {
			return fmt.Errorf("write %d revisions of %s into the ledger: %w", len(keys), model, err)
		}
	}
	return nil
}

// Adopt gives rows that were there before cqrsync their ledger row: revision 0, of which no message
// was made. Keys that the ledger knows are left alone. All are locked until the transaction ends.
func (l *Revisions) Adopt(ctx context.Context, tx bun.IDB, model string, keys []string) error {
	ledger := l.table
	for chunk := range slices.Chunk(slices.Sorted(slices.Values(keys)), db.MaxKeys) {
		args := []any{ledger}
		for _, key := range chunk {
			args = append(args, model, key)
		}
		row := "(?, ?, 0, " + l.dialect.Now() + ")"
		_, err := tx.ExecContext(ctx, l.SQL(`INSERT INTO ? (model, "key", revision, updated_at) VALUES `+
			row+strings.Repeat(", "+row, len(chunk)-1)+" "+
			l.dialect.OnConflict(`model, "key"`)+` revision = `+string(ledger)+`.revision`), args...)
		if err != nil {
			return fmt.Errorf("note %d rows of %s in the ledger: %w", len(keys), model, err)
		}
	}
	return nil
}
