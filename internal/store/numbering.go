package store

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// numbering says which lanes there are: count of them, from first on. A change of their number takes new numbers, so that
// a row says in which numbering it was written.
type numbering struct{ first, count int }

// of is the lane of a key: the unit of order and of relay ownership. Changing the function would send a key's messages
// through two lanes at once, out of order. The hash is one that every database can compute: internal/capture has it in SQL,
// for triggers.
func (n numbering) of(model, key string) int {
	// No secret hangs on it.
	sum := md5.Sum([]byte(model + ":" + key))
	return n.first + int(binary.BigEndian.Uint32(sum[:])%uint32(n.count))
}

// numbering is read once; whoever writes with one that has changed since is refused, and reads it again (renumbered).
func (s *Store) numbering(ctx context.Context, tx bun.IDB) (numbering, error) {
	if n := s.cached.Load(); n != nil {
		return *n, nil
	}
	n, err := s.readNumbering(ctx, tx)
	if err == nil {
		s.cached.Store(&n)
	}
	return n, err
}

func (s *Store) readNumbering(ctx context.Context, tx bun.IDB) (n numbering, err error) {
	err = tx.QueryRowContext(ctx, "SELECT coalesce(min(lane), 0), count(*) FROM ?", s.Table("outbox_lanes")).Scan(&n.first, &n.count)
	if err != nil {
		return n, fmt.Errorf("count lanes: %w", err)
	}
	if n.count == 0 {
		return n, errors.New("outbox_lanes is empty: run relay migrate")
	}
	return n, nil
}

// laneValue is what stands in an INSERT into outbox_messages for the lane: itself, or null where there is no such lane.
func (s *Store) laneValue() string {
	table := s.dialect.laneNumbers()
	if table == "" {
		return "?"
	}
	return "(SELECT lane FROM " + string(s.Table(table)) + " WHERE lane = ?" + s.dialect.shareRows() + ")"
}

// errRenumbered is a conflict: the same transaction, run again, may pass.
const errRenumbered = db.ConflictError("the number of lanes was changed meanwhile: run the transaction again")

// renumbered recognises the refusal of a lane that is none any more, and forgets the numbering.
func (s *Store) renumbered(err error) error {
	text := err.Error()
	if !strings.Contains(text, "outbox_messages_lanes") && // PostgreSQL's condition
		!strings.Contains(text, "outbox_messages.lane") && // SQLite's column without a value
		!strings.Contains(text, "Column 'lane' cannot be null") { // MariaDB's
		return err
	}
	s.cached.Store(nil)
	return fmt.Errorf("%w (%w)", errRenumbered, err)
}
