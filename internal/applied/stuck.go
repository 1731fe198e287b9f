package applied

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// Stuck is a message that was not applied: it waits, or was given up.
type Stuck struct {
	Key
	Dead     bool
	Revision int64
	Error    string
	// Since is when it began to wait, or was given up.
	Since time.Time
	// Body is the message, where all of one key was asked for.
	Body []byte
}

// StuckOf returns up to limit messages of a model that wait, and the latest ones that were given
// up, also up to limit; only those of one key, if key is not empty, and of what was given up only
// those of one queue, if queue is not empty. What they hold is read for one key only.
func (s *Tables) StuckOf(
	ctx context.Context, queue, model, key string, limit int,
) (all []Stuck, err error) {
	where, args := "model = ?", []any{model}
	if model == "" { // of what was given up nobody may know it
		where, args = "model IS NULL", nil
	}
	body := ""
	if key != "" {
		where, args = where+s.SQL(` AND "key" = ?`), append(args, key)
		body = ", body"
	}
	err = s.stuck(ctx, &all, `SELECT model, "key", revision, error, `+s.dialect.Micros("since")+
		body+" FROM ? WHERE "+where+" LIMIT ?",
		append(append([]any{s.Table("replica_waiting")}, args...), limit)...)
	waiting := len(all)
	if queue != "" {
		where, args = where+" AND queue = ?", append(args, queue)
	}
	if err == nil {
		err = s.stuck(ctx, &all, `SELECT coalesce(model, ''), coalesce("key", ''),
			coalesce(revision, -1), error, `+
			s.dialect.Micros("dead_at")+body+" FROM ? WHERE "+where+" ORDER BY id DESC LIMIT ?",
			append(append([]any{s.Table("replica_dead_letters")}, args...), limit)...)
	}
	if err != nil {
		return nil, fmt.Errorf("read what was not applied: %w", err)
	}
	for i := range all[waiting:] {
		all[waiting+i].Dead = true
	}
	return all, nil
}

func (s *Tables) stuck(ctx context.Context, into *[]Stuck, statement string, args ...any) error {
	rows, err := s.DB().QueryContext(ctx, s.SQL(statement), args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	for rows.Next() {
		var one Stuck
		var since int64
		values := []any{&one.Model, &one.Key.Key, &one.Revision, &one.Error, &since, &one.Body}
		err := rows.Scan(values[:len(columns)]...)
		if err != nil {
			return err
		}
		one.Since = time.UnixMicro(since).UTC()
		*into = append(*into, one)
	}
	return rows.Err()
}

// Entry is what the ledger has of one key.
type Entry struct {
	Revision int64
	Deleted  bool
	// Updated is the master's time of the revision, Applied when it was written here, by the clock
	// of this database; zero where that is not known.
	Updated, Applied time.Time
}

// EntryOf returns what the ledger has of one key; known is false where it has nothing.
func (s *Tables) EntryOf(ctx context.Context, key Key) (e Entry, known bool, err error) {
	var updated, applied *int64
	err = s.DB().QueryRowContext(ctx, s.SQL("SELECT revision, deleted, "+
		s.dialect.Micros("updated_at")+", "+s.dialect.Micros("applied_at")+
		` FROM ? WHERE model = ? AND "key" = ?`), s.Table("replica_revisions"), key.Model, key.Key).
		Scan(&e.Revision, &e.Deleted, &updated, &applied)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return e, false, nil
	case err != nil:
		return e, false, fmt.Errorf("read what the ledger has of a key: %w", err)
	}
	if updated != nil {
		e.Updated = time.UnixMicro(*updated).UTC()
	}
	if applied != nil {
		e.Applied = time.UnixMicro(*applied).UTC()
	}
	return e, true, nil
}
