package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Change is a key that a transaction changed.
type Change struct {
	db.Key
	// Existed says that the row may be older than its ledger row: it was there before cqrsync came.
	// Replicas that loaded it hold it as revision 0, so its first revision is 1, and a diff sees
	// whether they missed it.
	Existed bool
}

// first is the revision that the change has where the ledger does not know the key.
func first(existed bool) int64 {
	if existed {
		return 1
	}
	return 0
}

// Revision is what Lock drew for a key.
type Revision struct {
	db.Key
	Revision int64
	// After is the last revision that made a message before this one, nil if there was none.
	After *int64
	// Follows is Message.Follows.
	Follows bool
	// WasDeleted says that the ledger holds the key as deleted: replicas do not have it.
	WasDeleted bool
	// Tracked is what Settle stored for the key last: a JSON object, or nil.
	Tracked json.RawMessage
	// Updated never goes back for a key, whatever the clocks do.
	Updated time.Time
}

// Lock raises the revision of every key by one, starting at 0, and keeps the ledger rows locked
// until the transaction ends: whoever comes second waits here, and reads the first one's rows
// afterwards. So the order of revisions is the order of commits (P4). One statement, whatever the
// number of keys; keys must not repeat.
func (l *Revisions) Lock(
	ctx context.Context, tx bun.IDB, changes []Change,
) (map[db.Key]Revision, error) {
	sorted := slices.SortedFunc(slices.Values(changes), func(a, b Change) int {
		return db.CompareKeys(a.Key, b.Key)
	})
	revisions := make(map[db.Key]Revision, len(sorted))
	for chunk := range slices.Chunk(sorted, db.MaxKeys) {
		if err := l.lock(ctx, tx, chunk, revisions); err != nil {
			return nil, fmt.Errorf("lock %d keys in the ledger: %w", len(changes), err)
		}
	}
	// a key that the database takes for another one would go without a revision
	for _, c := range sorted {
		if _, locked := revisions[c.Key]; !locked {
			return nil, fmt.Errorf("lock %d keys in the ledger: model %s key %q came back as "+
				"another key: outbox_revisions must compare keys byte by byte (see relay migrate "+
				"--print)", len(changes), c.Model, c.Key.Key)
		}
	}
	return revisions, nil
}

func (l *Revisions) lock(
	ctx context.Context, tx bun.IDB, changes []Change, into map[db.Key]Revision,
) error {
	values := make([]string, len(changes))
	args := []any{l.table}
	for i, c := range changes {
		values[i] = "(?, ?, ?, ?, " + l.dialect.Now() + ")"
		args = append(args, c.Model, c.Key.Key, first(c.Existed), first(c.Existed))
	}
	rows, err := tx.QueryContext(ctx, l.SQL(`
		INSERT INTO ? (model, "key", revision, produced, updated_at)
		VALUES `+strings.Join(values, ", ")+`
		`+l.dialect.OnConflict(`model, "key"`)+" "+Raise(l.dialect, string(l.table)+".")+`
		RETURNING model, "key", revision, after, `+Follows("")+`, deleted, tracked, `+
		l.dialect.Micros("updated_at")), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var r Revision
		var updated int64
		var tracked *string
		err := rows.Scan(&r.Model, &r.Key.Key, &r.Revision, &r.After, &r.Follows, &r.WasDeleted,
			&tracked, &updated)
		if err != nil {
			return err
		}
		if tracked != nil {
			r.Tracked = json.RawMessage(*tracked)
		}
		r.Updated = time.UnixMicro(updated).UTC()
		into[r.Key] = r
	}
	return rows.Err()
}

// NoteResent notes that something of locked keys of a model goes into the outbox out of turn: the
// next message of each must not leave before that has been read.
func (l *Revisions) NoteResent(ctx context.Context, tx bun.IDB, model string, keys []string) error {
	for chunk := range slices.Chunk(slices.Sorted(slices.Values(keys)), db.MaxKeys) {
		_, err := tx.ExecContext(ctx,
			l.SQL(`UPDATE ? SET resent = revision WHERE model = ? AND "key" IN (?)`),
			l.table, model, bun.List(chunk))
		if err != nil {
			return fmt.Errorf("note %d keys of %s as sent again: %w", len(keys), model, err)
		}
	}
	return nil
}

// Settlement is what the transaction turned out to have done to locked keys, where Lock's
// assumption (replicas have the key, and a message goes out) does not hold.
type Settlement struct {
	Deleted  []db.Key // replicas are told to delete it, or were never told of it
	Restored []db.Key // was deleted, now live again
	// Unsent keys raised their revision and make no message.
	Unsent []db.Key
	// Unchanged keys neither changed nor make a message: Lock's step is taken back.
	Unchanged []Revision
	// Tracked is what the next Lock of the key returns.
	Tracked map[db.Key]json.RawMessage
}

// Settle corrects the ledger rows that Lock wrote, in the same transaction. It costs nothing where
// there is nothing to correct.
func (l *Revisions) Settle(ctx context.Context, tx bun.IDB, done Settlement) error {
	var created, raised []db.Key
	for _, r := range done.Unchanged {
		if r.Revision == 0 {
			created = append(created, r.Key)
		} else {
			raised = append(raised, r.Key)
		}
	}
	for _, step := range []struct {
		statement string
		keys      []db.Key
	}{
		{"UPDATE ? SET deleted = TRUE", done.Deleted},
		{"UPDATE ? SET deleted = FALSE", done.Restored},
		{"UPDATE ? SET produced = after", done.Unsent},
		{"UPDATE ? SET revision = revision - 1, produced = after", raised},
		{"DELETE FROM ?", created},
	} {
		for chunk := range slices.Chunk(step.keys, db.MaxKeys) {
			_, err := tx.ExecContext(ctx, l.SQL(step.statement+` WHERE (model, "key") IN (?)`),
				l.table, db.Tuples(chunk))
			if err != nil {
				return fmt.Errorf("settle %d keys in the ledger: %w", len(chunk), err)
			}
		}
	}
	return l.storeTracked(ctx, tx, done.Tracked)
}

// storeTracked is an upsert that always meets its row, because that is the one form of a multi-row
// update with a value per row that every dialect has.
func (l *Revisions) storeTracked(
	ctx context.Context, tx bun.IDB, tracked map[db.Key]json.RawMessage,
) error {
	keys := slices.SortedFunc(maps.Keys(tracked), db.CompareKeys)
	for chunk := range slices.Chunk(keys, maxTracked) {
		values := make([]string, len(chunk))
		args := []any{l.table}
		for i, k := range chunk {
			values[i] = "(?, ?, 0, " + l.dialect.Now() + ", ?)"
			args = append(args, k.Model, k.Key, string(tracked[k]))
		}
		_, err := tx.ExecContext(ctx, l.SQL(`
			INSERT INTO ? (model, "key", revision, updated_at, tracked)
			VALUES `+strings.Join(values, ", ")+l.Upsert(`model, "key"`, "tracked")), args...)
		if err != nil {
			return fmt.Errorf("store tracked values of %d keys: %w", len(chunk), err)
		}
	}
	return nil
}

// maxTracked bounds a statement's tracked values, which are user data of any size.
const maxTracked = 200
