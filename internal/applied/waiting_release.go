package applied

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// ReleaseNext makes due now what waits for a revision that the key has reached, and what waits for
// that in turn, and says how many messages there were. They wait for nothing any more: whoever has
// one in hand is not disturbed again.
func (s *Tables) ReleaseNext(
	ctx context.Context, tx bun.IDB, reached map[Key]int64,
) (released int64, err error) {
	keys := slices.SortedFunc(maps.Keys(reached), db.CompareKeys)
	for chunk := range slices.Chunk(keys, db.MaxKeys) {
		due, err := s.awaiting(ctx, tx, chunk, reached)
		if err == nil && len(due) > 0 {
			_, err = tx.ExecContext(ctx, s.SQL(`UPDATE ? SET next_attempt_at = `+s.dialect.Now()+
				`, awaits = NULL, gap_at = NULL WHERE (model, "key", revision) IN (?)`),
				s.Table("replica_waiting"), db.AnyOfTuples(due))
		}
		if err != nil {
			return released, fmt.Errorf("release what waits for a revision of %d keys: %w",
				len(keys), err)
		}
		released += int64(len(due))
	}
	return released, nil
}

// awaiting finds the messages that wait for nothing but revisions that have been reached, or are
// reached with them.
func (s *Tables) awaiting(
	ctx context.Context, tx bun.IDB, keys []Key, reached map[Key]int64,
) (due []bun.TupleValues, err error) {
	rows, err := tx.QueryContext(ctx, s.SQL(`
		SELECT model, "key", revision, awaits FROM ? WHERE (model, "key") IN (?)
			AND awaits IS NOT NULL ORDER BY model, "key", revision`),
		s.Table("replica_waiting"), db.Tuples(keys))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	at := map[Key]int64{}
	for rows.Next() {
		var k Key
		var revision, awaits int64
		if err := rows.Scan(&k.Model, &k.Key, &revision, &awaits); err != nil {
			return nil, err
		}
		if _, begun := at[k]; !begun {
			at[k] = reached[k]
		}
		if awaits <= at[k] {
			due = append(due, bun.Tuple([]any{k.Model, k.Key, revision}))
			at[k] = max(at[k], revision)
		}
	}
	return due, rows.Err()
}

// ReleaseWaiting makes the messages that wait for one of the parents due now, and says how many
// there were.
func (s *Tables) ReleaseWaiting(ctx context.Context, parents []Key) (released int64, err error) {
	err = s.InBounds(ctx, s.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		released, err = s.releaseWaiting(ctx, tx, parents)
		return err
	})
	return released, err
}

func (s *Tables) releaseWaiting(
	ctx context.Context, conn bun.IDB, parents []Key,
) (released int64, err error) {
	for chunk := range slices.Chunk(parents, db.MaxKeys) {
		result, err := conn.ExecContext(ctx, s.SQL(`UPDATE ? SET next_attempt_at = `+s.dialect.Now()+
			`, parent_model = NULL, parent_key = NULL WHERE (parent_model, parent_key) IN (?)`),
			s.Table("replica_waiting"), db.Tuples(chunk))
		if err == nil {
			var n int64
			n, err = result.RowsAffected()
			released += n
		}
		if err != nil {
			return released, fmt.Errorf("release what waits for %d keys: %w", len(parents), err)
		}
	}
	return released, nil
}
