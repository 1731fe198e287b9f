package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Known is what a ledger, of either side, knows of a key.
type Known struct {
	Key      string
	Revision int64
	Deleted  bool
	// Updated is zero where no master sent a time.
	Updated time.Time
	// Applied is when the replica's database wrote the row, by its own clock; zero where it does not say, and in the
	// master's ledger.
	Applied time.Time
}

func (s *Store) ledger(side Side) bun.Safe {
	if side == Outbox {
		return s.Table("outbox_revisions")
	}
	return s.Table("replica_revisions")
}

// Known looks keys of one model up in a ledger, without locking. Keys that it does not know are not in the result.
func (s *Store) Known(ctx context.Context, tx bun.IDB, side Side, model string, keys []string) (map[string]Known, error) {
	return s.known(ctx, tx, side, model, keys, "")
}

// LockKnown is Known, with the rows locked until the transaction ends, in the one order of keys.
func (s *Store) LockKnown(ctx context.Context, tx bun.IDB, side Side, model string, keys []string) (map[string]Known, error) {
	lock := ""
	if s.dialect.LockRows() != "" {
		lock = ` ORDER BY "key" FOR UPDATE`
	}
	return s.known(ctx, tx, side, model, keys, lock)
}

func (s *Store) known(
	ctx context.Context, tx bun.IDB, side Side, model string, keys []string, lock string,
) (map[string]Known, error) {
	known := make(map[string]Known, len(keys))
	order := byLength
	if lock != "" {
		order = strings.Compare // the one order of locks
	}
	for chunk := range slices.Chunk(slices.SortedFunc(slices.Values(keys), order), db.MaxKeys) {
		condition, args := among(chunk)
		rows, err := s.lookUp(ctx, tx, s.ledger(side), model, condition+lock, args...)
		if err != nil {
			return nil, fmt.Errorf("look up %d keys of %s: %w", len(keys), model, err)
		}
		for _, k := range rows {
			known[k.Key] = k
		}
	}
	return known, nil
}

// byLength brings integers into their order, and those of one length together.
func byLength(a, b string) int {
	if c := cmp.Compare(len(a), len(b)); c != 0 {
		return c
	}
	return cmp.Compare(a, b)
}

// among is a condition that a key is one of some. Where these are digits of one length, which every collation orders
// alike, it says between which they lie: without that, PostgreSQL reads the whole ledger for a long list.
func among(keys []string) (condition string, args []any) {
	first, last := slices.Min(keys), slices.Max(keys)
	for _, key := range keys {
		if len(key) != len(first) || strings.Trim(key, "0123456789") != "" {
			return `"key" IN (?)`, []any{bun.List(keys)}
		}
	}
	return `"key" IN (?) AND "key" >= ? AND "key" <= ?`, []any{bun.List(keys), first, last}
}

func (s *Store) lookUp(
	ctx context.Context, tx bun.IDB, ledger bun.Safe, model, condition string, args ...any,
) ([]Known, error) {
	applied := "NULL"
	if ledger == s.ledger(Replica) {
		applied = s.dialect.Micros("applied_at")
	}
	rows, err := tx.QueryContext(ctx, s.SQL(`SELECT "key", revision, deleted, `+s.dialect.Micros("updated_at")+`, `+applied+`
		FROM ? WHERE model = ? AND `+condition), append([]any{ledger, model}, args...)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var known []Known
	for rows.Next() {
		var k Known
		var updated, applied *int64
		if err := rows.Scan(&k.Key, &k.Revision, &k.Deleted, &updated, &applied); err != nil {
			return nil, err
		}
		if applied != nil {
			k.Applied = time.UnixMicro(*applied).UTC()
		}
		if updated != nil {
			k.Updated = time.UnixMicro(*updated).UTC()
		}
		known = append(known, k)
	}
	return known, rows.Err()
}

// Adopt gives rows that were there before cqrsync their ledger row: revision 0, of which no message was made. Keys that
// the ledger knows are left alone. All are locked until the transaction ends.
func (s *Store) Adopt(ctx context.Context, tx bun.IDB, model string, keys []string) error {
	ledger := s.ledger(Outbox)
	for chunk := range slices.Chunk(slices.Sorted(slices.Values(keys)), db.MaxKeys) {
		args := []any{ledger}
		for _, key := range chunk {
			args = append(args, model, key)
		}
		row := "(?, ?, 0, " + s.dialect.Now() + ")"
		_, err := tx.ExecContext(ctx, s.SQL(`INSERT INTO ? (model, "key", revision, updated_at) VALUES `+
			row+strings.Repeat(", "+row, len(chunk)-1)+" "+
			s.dialect.OnConflict(`model, "key"`)+` revision = `+string(ledger)+`.revision`), args...)
		if err != nil {
			return fmt.Errorf("note %d rows of %s in the ledger: %w", len(keys), model, err)
		}
	}
	return nil
}

// ForgetLive deletes what the replica's ledger has of a model but for the tombstones.
func (s *Store) ForgetLive(ctx context.Context, tx bun.IDB, model string) error {
	_, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE model = ? AND NOT deleted", s.ledger(Replica), model)
	if err != nil {
		return fmt.Errorf("forget the keys of %s in the replica's ledger: %w", model, err)
	}
	return nil
}
