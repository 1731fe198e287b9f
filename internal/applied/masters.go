package applied

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Master is an incarnation of a master that messages of a model came from.
type Master struct {
	Model, Incarnation string
	// First and Last are when messages of it came, by the clock of the replica's database.
	First, Last time.Time
	// Clock is how late it was at Last by the master's clock, at least; zero if no message said.
	Clock time.Time
	// Returns counts the messages that it wrote after a later incarnation had come.
	Returns int64
	// Overtaken counts the messages that were stale by their revision though later by their time.
	Overtaken int64
}

// Masters returns the incarnations that were noted, oldest first, and the time by the database's
// clock.
func (s *Tables) Masters(ctx context.Context) (masters []Master, now time.Time, err error) {
	if now, err = s.Now(ctx); err != nil {
		return nil, now, err
	}
	rows, err := s.DB().QueryContext(ctx, `
		SELECT model, incarnation, `+s.dialect.Micros("first_at")+`, `+
		s.dialect.Micros("last_at")+`, `+s.dialect.Micros("newest_at")+`, returns, overtaken FROM ?
		ORDER BY model, first_at, incarnation`, s.Table("replica_masters"))
	if err != nil {
		return nil, now, fmt.Errorf("read the masters that were noted: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var m Master
		var first, last int64
		var clock *int64
		if err := rows.Scan(&m.Model, &m.Incarnation, &first, &last, &clock, &m.Returns,
			&m.Overtaken); err != nil {
			return nil, now, fmt.Errorf("read the masters that were noted: %w", err)
		}
		m.First, m.Last = time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC()
		if clock != nil {
			m.Clock = time.UnixMicro(*clock).UTC()
		}
		masters = append(masters, m)
	}
	return masters, now, rows.Err()
}

// NoteMasters notes that messages of incarnations came just now. Clock replaces what was noted;
// Returns and Overtaken are added to it. Rows must not repeat.
func (s *Tables) NoteMasters(ctx context.Context, masters []Master) error {
	// the one order of locks
	masters = slices.SortedFunc(slices.Values(masters), func(a, b Master) int {
		return db.CompareKeys(Key{Model: a.Model, Key: a.Incarnation},
			Key{Model: b.Model, Key: b.Incarnation})
	})
	table := string(s.Table("replica_masters"))
	added := func(column string) string {
		return column + " = " + table + "." + column + " + " + s.dialect.Proposed(column)
	}
	for chunk := range slices.Chunk(masters, db.MaxKeys) {
		row := "(?, ?, " + s.dialect.Now() + ", " + s.dialect.Now() + ", ?, ?, ?)"
		args := []any{s.Table("replica_masters")}
		for _, m := range chunk {
			args = append(args, m.Model, m.Incarnation, s.TimeOrNull(m.Clock), m.Returns,
				m.Overtaken)
		}
		_, err := s.DB().ExecContext(ctx, `
		INSERT INTO ? (model, incarnation, first_at, last_at, newest_at, returns, overtaken)
		VALUES `+
			row+strings.Repeat(", "+row, len(chunk)-1)+
			s.Upsert("model, incarnation", "last_at", "newest_at")+", "+
			added("returns")+", "+added("overtaken"), args...)
		if err != nil {
			return fmt.Errorf("note %d masters: %w", len(masters), err)
		}
	}
	return nil
}
