package applied

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// WaitingOf returns the newest waiting message of each of the keys, for who applies it in the same
// transaction. Messages that somebody else has in hand are left out.
func (s *Tables) WaitingOf(ctx context.Context, tx bun.IDB, keys []Key) ([]Waiting, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	return s.companions(ctx, tx, `(model, "key") IN (?)`, len(keys), db.Tuples(keys))
}

// WaitingErrors returns why the messages of a key wait, in the order of their revisions.
func (s *Tables) WaitingErrors(ctx context.Context, key Key) (errs []string, err error) {
	err = s.DB().NewRaw(s.SQL(`SELECT error FROM ? WHERE model = ? AND "key" = ? ORDER BY revision`),
		s.Table("replica_waiting"), key.Model, key.Key).Scan(ctx, &errs)
	if err != nil {
		return nil, fmt.Errorf("read why messages of model %q key %q wait: %w", key.Model, key.Key,
			err)
	}
	return errs, nil
}

// WaitingIn returns waiting messages of a model, the newest first, like WaitingOf.
func (s *Tables) WaitingIn(
	ctx context.Context, tx bun.IDB, model string, n int,
) ([]Waiting, error) {
	return s.companions(ctx, tx, "model = ?", n, model)
}

func (s *Tables) companions(
	ctx context.Context, tx bun.IDB, condition string, n int, arg any,
) (found []Waiting, err error) {
	rows, err := tx.QueryContext(ctx, s.SQL(`SELECT model, "key", revision, deleted,
			`+s.dialect.Micros("updated_at")+`, body, metadata, attempts, `+s.dialect.Micros("since")+`
		FROM ? WHERE `+condition+` ORDER BY since DESC, revision DESC LIMIT ? `+
		s.dialect.LockRows()), s.Table("replica_waiting"), arg, n)
	if err != nil {
		return nil, fmt.Errorf("look for what waits with a message: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	known := map[Key]bool{}
	for rows.Next() {
		var w Waiting
		var metadata string
		var since int64
		if err := scanApplied(rows, &w.Applied, &w.Body, &metadata, &w.Attempts, &since); err != nil {
			return nil, err
		}
		w.Since = time.UnixMicro(since).UTC()
		if err := json.Unmarshal([]byte(metadata), &w.Metadata); err != nil {
			return nil, fmt.Errorf("metadata of model %q key %q: %w", w.Model, w.Key.Key, err)
		}
		if !known[w.Key] {
			known[w.Key] = true
			found = append(found, w)
		}
	}
	return found, rows.Err()
}
