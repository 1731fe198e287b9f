package applied

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// WaitingFilter chooses messages that wait: those for which everything holds that is set. The zero
// value chooses all.
type WaitingFilter struct {
	Model, Key string
	// Before chooses those that began to wait before that time, by the database's clock.
	Before time.Time
}

func (f WaitingFilter) condition(s *Tables) (condition string, args []any) {
	conditions := []string{"1 = 1"}
	add := func(condition string, arg any) {
		conditions, args = append(conditions, condition), append(args, arg)
	}
	if f.Model != "" {
		add("model = ?", f.Model)
	}
	if f.Key != "" {
		add(s.SQL(`"key" = ?`), f.Key)
	}
	if !f.Before.IsZero() {
		add("since < ?", s.dialect.Time(f.Before))
	}
	return strings.Join(conditions, " AND "), args
}

// WaitingState is what a list shows of a message that waits.
type WaitingState struct {
	Key
	Revision int64
	Deleted  bool
	Attempts int
	Error    string
	// Since is when it began to wait, and Next when it is tried again.
	Since, Next time.Time
	// Awaits is the revision of the same key before which it is not to be applied; nil for none.
	Awaits *int64
}

// ListWaiting returns at most limit messages that wait, those that began first; 0 means all. What
// they hold is not read.
func (s *Tables) ListWaiting(
	ctx context.Context, f WaitingFilter, limit int,
) (all []WaitingState, err error) {
	condition, args := f.condition(s)
	query := s.SQL(`SELECT model, "key", revision, deleted, attempts, error, awaits, ` +
		s.dialect.Micros("since") + ", " + s.dialect.Micros("next_attempt_at") +
		" FROM ? WHERE " + condition + ` ORDER BY since, model, "key", revision`)
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	rows, err := s.DB().QueryContext(ctx, query, append([]any{s.Table("replica_waiting")}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var w WaitingState
		var since, next int64
		err := rows.Scan(&w.Model, &w.Key.Key, &w.Revision, &w.Deleted, &w.Attempts, &w.Error,
			&w.Awaits, &since, &next)
		if err != nil {
			return nil, fmt.Errorf("list what waits: %w", err)
		}
		w.Since, w.Next = time.UnixMicro(since).UTC(), time.UnixMicro(next).UTC()
		all = append(all, w)
	}
	return all, rows.Err()
}

// HastenWaiting makes messages due that wait for their next attempt, and returns how many. Those
// that are due already are not counted.
func (s *Tables) HastenWaiting(ctx context.Context, f WaitingFilter) (int64, error) {
	condition, args := f.condition(s)
	now := s.dialect.Now()
	return s.changeWaiting(ctx, "make what waits due", "UPDATE ? SET next_attempt_at = "+now+
		" WHERE next_attempt_at > "+now+" AND "+condition, args)
}

// DropWaiting forgets messages that wait, for good, and returns how many.
func (s *Tables) DropWaiting(ctx context.Context, f WaitingFilter) (int64, error) {
	condition, args := f.condition(s)
	return s.changeWaiting(ctx, "drop what waits", "DELETE FROM ? WHERE "+condition, args)
}

func (s *Tables) changeWaiting(
	ctx context.Context, what, statement string, args []any,
) (int64, error) {
	result, err := s.DB().ExecContext(ctx, statement,
		append([]any{s.Table("replica_waiting")}, args...)...)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	return result.RowsAffected()
}
