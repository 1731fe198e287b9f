package applied

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Passed is a hole in the revisions of a key that was passed over. What is in it may be lost, or
// another process of the queue may have it, which then finds that it is stale.
type Passed struct {
	Key
	// Had is the revision before the hole, Missing the last one in it that has not come, Applied
	// the one behind it.
	Had, Missing, Applied int64

	late map[int64]int64 // what came after all: revision to the one before it
}

// Late is a message that came after a newer one of its key.
type Late struct {
	Key
	// After is the revision before Revision.
	Revision, After int64
}

// maxLate bounds what is noted of one hole.
const maxLate = 1000

// Closes takes note of a message, and says that nothing is missing any more.
func (p *Passed) Closes(l Late) bool {
	if l.Revision <= p.Had || l.Revision >= p.Applied || len(p.late) >= maxLate {
		return false
	}
	if p.late == nil {
		p.late = map[int64]int64{}
	}
	p.late[l.Revision] = min(l.After, l.Revision-1)
	for {
		before, came := p.late[p.Missing]
		if !came {
			return false
		}
		if before <= p.Had {
			return true
		}
		p.Missing = before
	}
}

// AddPassed keeps holes until TakePassed returns them, after the time in.
func (s *Tables) AddPassed(
	ctx context.Context, tx bun.IDB, passed []Passed, in time.Duration,
) error {
	for _, p := range passed {
		late, err := json.Marshal(p.late)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, s.SQL(`
			INSERT INTO ? (model, "key", applied, had, missing, late, due_at)
			VALUES (?, ?, ?, ?, ?, ?, `+s.dialect.After(s.dialect.Now(), in)+`)`+
			s.Upsert(`model, "key", applied`, "had", "missing", "late", "due_at")),
			s.Table("replica_gaps"), p.Model, p.Key.Key, p.Applied, p.Had, p.Missing, string(late))
		if err != nil {
			return fmt.Errorf("note a gap of model %q key %q: %w", p.Model, p.Key.Key, err)
		}
	}
	return nil
}

// ClosePassed takes note of what came late, and forgets the holes in which nothing is missing any
// more.
func (s *Tables) ClosePassed(ctx context.Context, tx bun.IDB, late []Late) error {
	byKey := map[Key][]Late{}
	for _, l := range late {
		byKey[l.Key] = append(byKey[l.Key], l)
	}
	keys := make([]Key, 0, len(byKey))
	for k := range byKey {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, db.CompareKeys)
	for chunk := range slices.Chunk(keys, db.MaxKeys) {
		found, err := s.passed(ctx, tx, `WHERE (model, "key") IN (?)`+s.forUpdate(), db.Tuples(chunk))
		if err != nil {
			return fmt.Errorf("look for gaps of %d keys: %w", len(keys), err)
		}
		for _, p := range found {
			if err := s.closePassed(ctx, tx, p, byKey[p.Key]); err != nil {
				return fmt.Errorf("close a gap of model %q key %q: %w", p.Model, p.Key.Key, err)
			}
		}
	}
	return nil
}

func (s *Tables) closePassed(ctx context.Context, tx bun.IDB, p Passed, late []Late) error {
	const which = ` WHERE model = ? AND "key" = ? AND applied = ?`
	for _, l := range late {
		if p.Closes(l) {
			_, err := tx.ExecContext(ctx, s.SQL(`DELETE FROM ?`+which),
				s.Table("replica_gaps"), p.Model, p.Key.Key, p.Applied)
			return err
		}
	}
	text, err := json.Marshal(p.late)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, s.SQL(`UPDATE ? SET missing = ?, late = ?`+which),
		s.Table("replica_gaps"), p.Missing, string(text), p.Model, p.Key.Key, p.Applied)
	return err
}

// TakePassed returns up to n holes whose time has come, and forgets them: nothing of them came.
func (s *Tables) TakePassed(ctx context.Context, n int) (taken []Passed, err error) {
	err = s.InBounds(ctx, s.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		taken, err = s.passed(ctx, tx, `WHERE due_at <= `+s.dialect.Now()+
			` ORDER BY due_at LIMIT ? `+s.dialect.LockRows(), n)
		if err != nil || len(taken) == 0 {
			return err
		}
		exact := make([]bun.TupleValues, len(taken))
		for i, p := range taken {
			exact[i] = bun.Tuple([]any{p.Model, p.Key.Key, p.Applied})
		}
		_, err = tx.ExecContext(ctx, s.SQL(`DELETE FROM ? WHERE (model, "key", applied) IN (?)`),
			s.Table("replica_gaps"), db.AnyOfTuples(exact))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for gaps: %w", err)
	}
	return taken, nil
}

// forUpdate is lockRows that waits.
func (s *Tables) forUpdate() string {
	if s.dialect.LockRows() == "" {
		return ""
	}
	return ` ORDER BY model, "key" FOR UPDATE`
}

func (s *Tables) passed(
	ctx context.Context, tx bun.IDB, condition string, args ...any,
) (found []Passed, err error) {
	rows, err := tx.QueryContext(ctx,
		s.SQL(`SELECT model, "key", applied, had, missing, late FROM ? `+condition),
		append([]any{s.Table("replica_gaps")}, args...)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var p Passed
		var late string
		if err := rows.Scan(&p.Model, &p.Key.Key, &p.Applied, &p.Had, &p.Missing,
			&late); err != nil {
			return nil, err
		}
		if err := json.Unmarshal([]byte(late), &p.late); err != nil {
			return nil, fmt.Errorf("gap of model %q key %q: %w", p.Model, p.Key.Key, err)
		}
		found = append(found, p)
	}
	return found, rows.Err()
}

// DeadLetterAfter says whether a message is a dead letter of the replica, and which revision was
// sent before it; nil where it does not say.
func (s *Tables) DeadLetterAfter(
	ctx context.Context, tx bun.IDB, model, key string, revision int64,
) (dead bool, after *int64, err error) {
	var text string
	err = tx.QueryRowContext(ctx, s.SQL(`SELECT metadata FROM ?
		WHERE "key" = ? AND model = ? AND revision = ? ORDER BY id LIMIT 1`),
		s.Table("replica_dead_letters"), key, model, revision).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil, nil
	}
	metadata := map[string]string{}
	if err == nil {
		err = json.Unmarshal([]byte(text), &metadata)
	}
	if err != nil {
		return false, nil, fmt.Errorf("look for dead letters of model %q key %q: %w", model, key,
			err)
	}
	if n, parseErr := strconv.ParseInt(metadata["cqrs_after"], 10, 64); parseErr == nil {
		after = &n
	}
	return true, after, nil
}
