package queue

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// postpone needs no fence: at worst a key waits once more for its next owner, who asks which keys
// wait before and after it reads.
func (q *Queue) postpone(ctx context.Context, tx bun.IDB, failed []Failure) error {
	rows := make([]string, len(failed))
	args := []any{q.Table("outbox_retries")}
	for i, f := range failed {
		rows[i] = "(?, ?, ?, " + q.dialect.After(q.dialect.Now(), f.Wait) + ", ?, ?, " +
			q.dialect.Now() + ")"
		id := f.ID
		if !f.Replaceable() {
			id = math.MaxInt64 // nothing is newer
		}
		args = append(args, f.Model, f.Key, f.attempts(), clean(f.Error), id)
	}
	_, err := tx.ExecContext(ctx, q.SQL(`
		INSERT INTO ? (model, "key", attempts, next_attempt_at, last_error, message_id, since)
		VALUES `+strings.Join(rows, ", ")+
		q.Upsert(`model, "key"`, "attempts", "next_attempt_at", "last_error", "message_id")), args...)
	if err != nil {
		return fmt.Errorf("postpone %d keys: %w", len(failed), err)
	}
	return nil
}

// MakeDue ends the wait of keys: a newer message replaces the one that failed. Those that others
// hold locked are passed over: the next claim brings them again.
func (q *Queue) MakeDue(ctx context.Context, keys []Key) error {
	for chunk := range slices.Chunk(keys, db.MaxKeys) {
		err := q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
			rows, err := tx.QueryContext(ctx,
				q.SQL(`SELECT model, "key" FROM ? WHERE (model, "key") IN (?) `+q.dialect.LockRows()),
				q.Table("outbox_retries"), db.Tuples(chunk))
			if err != nil {
				return err
			}
			var free []Key
			if err := eachKey(rows, func(key Key) { free = append(free, key) }); err != nil ||
				len(free) == 0 {
				return err
			}
			_, err = tx.ExecContext(ctx,
				q.SQL("UPDATE ? SET next_attempt_at = "+q.dialect.Now()+` WHERE (model, "key") IN (?)`),
				q.Table("outbox_retries"), db.Tuples(free))
			return err
		})
		if err != nil {
			return fmt.Errorf("end the wait of %d keys: %w", len(keys), err)
		}
	}
	return nil
}

func eachKey(rows *sql.Rows, fn func(Key)) error {
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var key Key
		if err := rows.Scan(&key.Model, &key.Key); err != nil {
			return err
		}
		fn(key)
	}
	return rows.Err()
}
