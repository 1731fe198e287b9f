package applied

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Waiting is a message that a replica could not apply yet.
type Waiting struct {
	// Applied is what the ledger will hold when the message is applied. A message that is older
	// does not replace it.
	Applied
	// Body and Metadata are what the broker delivered.
	Body     []byte
	Metadata map[string]string
	// Attempts counts those that failed, Error is the last one's reason.
	Attempts int
	Error    string
	// Since is when it began to wait, by the database's clock; zero for now.
	Since time.Time
	// In is how long to wait for the next attempt, at the time of writing.
	In time.Duration
	// Parent is the key whose arrival makes the next attempt worth while; zero if none is known.
	Parent Key
	// Awaits is the revision of the same key before which the message is not to be applied; nil if
	// there is none. It waits for so long as GapIn says, from the time of writing, and not at all
	// where that is negative.
	Awaits *int64
	GapIn  time.Duration
}

// AddWaiting keeps messages, each in place of itself only. Keys may repeat, with other revisions.
func (s *Tables) AddWaiting(ctx context.Context, tx bun.IDB, rows []Waiting) error {
	rows = slices.SortedFunc(slices.Values(rows), func(a, b Waiting) int {
		return cmp.Or(db.CompareKeys(a.Key, b.Key), cmp.Compare(a.Revision, b.Revision))
	})
	for len(rows) > 0 {
		n, size := 0, 0
		for ; n < len(rows) && n < db.MaxKeys; n++ {
			if size += len(rows[n].Body) + len(rows[n].Error); n > 0 &&
				size > s.dialect.MaxStatement() {
				break
			}
		}
		if err := s.addWaiting(ctx, tx, rows[:n]); err != nil {
			return fmt.Errorf("keep %d messages for later: %w", n, err)
		}
		rows = rows[n:]
	}
	return nil
}

func (s *Tables) addWaiting(ctx context.Context, tx bun.IDB, rows []Waiting) error {
	values := make([]string, len(rows))
	args := []any{s.Table("replica_waiting")}
	for i, w := range rows {
		metadata, err := json.Marshal(w.Metadata)
		if err != nil {
			return err
		}
		gapAt := "NULL"
		if w.Awaits != nil {
			gapAt = s.dialect.After(s.dialect.Now(), w.GapIn)
		}
		since, began := s.dialect.Now(), []any(nil)
		if !w.Since.IsZero() {
			since, began = "?", []any{s.dialect.Time(w.Since)}
		}
		values[i] = "(?, ?, ?, ?, ?, ?, ?, ?, " + s.dialect.After(s.dialect.Now(), w.In) +
			", ?, ?, ?, ?, " + gapAt + ", " + since + ")"
		args = append(args, w.Model, w.Key.Key, w.Revision, w.Deleted, s.TimeOrNull(w.Updated),
			string(w.Body),
			string(metadata), w.Attempts, printable(w.Error),
			db.OrNull(w.Parent.Model), db.OrNull(w.Parent.Key), w.Awaits)
		args = append(args, began...)
	}
	_, err := tx.ExecContext(ctx, s.SQL(`
		INSERT INTO ? (model, "key", revision, deleted, updated_at, body, metadata, attempts,
			next_attempt_at, error,
			parent_model, parent_key, awaits, gap_at, since)
		VALUES `+strings.Join(values, ", ")+
		s.Upsert(`model, "key", revision`, "deleted", "updated_at", "body", "metadata",
			"attempts", "next_attempt_at",
			"error", "parent_model", "parent_key", "awaits", "gap_at")), args...)
	return err
}

// ForgetWaiting deletes whatever waits for the keys and no revision: something newer stands for it.
func (s *Tables) ForgetWaiting(ctx context.Context, tx bun.IDB, keys []Key) error {
	for chunk := range slices.Chunk(slices.SortedFunc(slices.Values(keys), db.CompareKeys),
		db.MaxKeys) {
		_, err := tx.ExecContext(ctx,
			s.SQL(`DELETE FROM ? WHERE (model, "key") IN (?) AND awaits IS NULL`),
			s.Table("replica_waiting"), db.Tuples(chunk))
		if err != nil {
			return fmt.Errorf("forget what waits for %d keys: %w", len(keys), err)
		}
	}
	return nil
}

// WaitingFor returns what the ledger will hold when the newest waiting message of each key is
// applied; keys without one are not in the result.
func (s *Tables) WaitingFor(ctx context.Context, tx bun.IDB, keys []Key) (map[Key]Applied, error) {
	found := make(map[Key]Applied)
	for chunk := range slices.Chunk(keys, db.MaxKeys) {
		if err := s.waitingFor(ctx, tx, chunk, found); err != nil {
			return nil, fmt.Errorf("look for waiting messages: %w", err)
		}
	}
	return found, nil
}

func (s *Tables) waitingFor(
	ctx context.Context, tx bun.IDB, keys []Key, into map[Key]Applied,
) error {
	rows, err := tx.QueryContext(ctx, s.SQL(`
		SELECT model, "key", revision, deleted, `+s.dialect.Micros("updated_at")+
		` FROM ? WHERE (model, "key") IN (?)`), s.Table("replica_waiting"), db.Tuples(keys))
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var a Applied
		if err := scanApplied(rows, &a); err != nil {
			return err
		}
		if other, found := into[a.Key]; !found || newer(a, other) {
			into[a.Key] = a
		}
	}
	return rows.Err()
}

// newer says that a is a later state of a key than b, as far as it can be told.
func newer(a, b Applied) bool {
	if !a.Updated.IsZero() && !b.Updated.IsZero() && !a.Updated.Equal(b.Updated) {
		return a.Updated.After(b.Updated)
	}
	return a.Revision > b.Revision
}

// RemoveWaiting deletes messages that wait no more; one that was replaced meanwhile stays.
func (s *Tables) RemoveWaiting(ctx context.Context, tx bun.IDB, rows []Applied) error {
	for chunk := range slices.Chunk(rows, db.MaxKeys) {
		exact := make([]bun.TupleValues, len(chunk))
		for i, a := range chunk {
			exact[i] = bun.Tuple([]any{a.Model, a.Key.Key, a.Revision})
		}
		_, err := tx.ExecContext(ctx, s.SQL(`DELETE FROM ? WHERE (model, "key", revision) IN (?)`),
			s.Table("replica_waiting"), db.AnyOfTuples(exact))
		if err != nil {
			return fmt.Errorf("remove %d waiting messages: %w", len(rows), err)
		}
	}
	return nil
}

// ClaimWaiting returns up to n messages whose time has come, oldest first, and puts their next
// attempt off by lease: no other process gets them meanwhile, and when this one dies they are due
// again.
func (s *Tables) ClaimWaiting(
	ctx context.Context, n int, lease time.Duration,
) (claimed []Waiting, err error) {
	err = s.InBounds(ctx, s.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		claimed, err = s.dueWaiting(ctx, tx, n)
		if err != nil || len(claimed) == 0 {
			return err
		}
		exact := make([]bun.TupleValues, len(claimed))
		for i, w := range claimed {
			exact[i] = bun.Tuple([]any{w.Model, w.Key.Key, w.Revision})
		}
		_, err = tx.ExecContext(ctx, s.SQL(`
			UPDATE ? SET next_attempt_at = `+s.dialect.After(s.dialect.Now(), lease)+
			` WHERE (model, "key", revision) IN (?)`),
			s.Table("replica_waiting"), db.AnyOfTuples(exact))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("claim waiting messages: %w", err)
	}
	return claimed, nil
}

func (s *Tables) dueWaiting(ctx context.Context, tx bun.IDB, n int) (due []Waiting, err error) {
	rows, err := tx.QueryContext(ctx, s.SQL(`
		SELECT model, "key", revision, deleted, `+s.dialect.Micros("updated_at")+`,
			body, metadata, attempts, error, parent_model, parent_key, awaits,
			`+s.dialect.Micros("gap_at")+` - `+
		s.dialect.Micros(s.dialect.Now())+", "+s.dialect.Micros("since")+
		` FROM ? WHERE next_attempt_at <= `+s.dialect.Now()+
		` ORDER BY next_attempt_at LIMIT ? `+s.dialect.LockRows()), s.Table("replica_waiting"), n)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var w Waiting
		var metadata string
		var parentModel, parentKey *string
		var gapIn *int64
		var since int64
		err := scanApplied(rows, &w.Applied, &w.Body, &metadata, &w.Attempts, &w.Error,
			&parentModel, &parentKey, &w.Awaits, &gapIn, &since)
		if err != nil {
			return nil, err
		}
		w.Since = time.UnixMicro(since).UTC()
		if gapIn != nil {
			w.GapIn = time.Duration(*gapIn) * time.Microsecond
		}
		if err := json.Unmarshal([]byte(metadata), &w.Metadata); err != nil {
			return nil, fmt.Errorf("metadata of model %q key %q: %w", w.Model, w.Key.Key, err)
		}
		if parentModel != nil && parentKey != nil {
			w.Parent = Key{Model: *parentModel, Key: *parentKey}
		}
		due = append(due, w)
	}
	return due, rows.Err()
}

// NextWaiting says in how long the next waiting message is due, and whether there is any.
func (s *Tables) NextWaiting(ctx context.Context) (in time.Duration, some bool, err error) {
	var micros *int64
	err = s.DB().NewRaw(s.SQL("SELECT "+s.dialect.Micros("min(next_attempt_at)")+" - "+
		s.dialect.Micros(s.dialect.Now())+
		" FROM ?"), s.Table("replica_waiting")).Scan(ctx, &micros)
	if err != nil {
		return 0, false, fmt.Errorf("look for waiting messages: %w", err)
	}
	if micros == nil {
		return 0, false, nil
	}
	return max(0, time.Duration(*micros)*time.Microsecond), true, nil
}

// CountWaiting returns how many messages wait, per model.
func (s *Tables) CountWaiting(ctx context.Context) (map[string]int64, error) {
	var rows []struct {
		Model string
		N     int64
	}
	err := s.DB().NewRaw("SELECT model, count(*) AS n FROM ? GROUP BY model",
		s.Table("replica_waiting")).Scan(ctx, &rows)
	if err != nil {
		return nil, fmt.Errorf("count waiting messages: %w", err)
	}
	counts := make(map[string]int64, len(rows))
	for _, r := range rows {
		counts[r.Model] = r.N
	}
	return counts, nil
}
