package ledger

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
	// Applied is when the replica's database wrote the row, by its own clock; zero where it does
	// not say, and in the master's ledger.
	Applied time.Time
}

// Known looks keys of one model up in a ledger, without locking. Keys that it does not know are not
// in the result.
func (l *Ledger) Known(
	ctx context.Context, tx bun.IDB, model string, keys []string,
) (map[string]Known, error) {
	return l.known(ctx, tx, model, keys, "")
}

// LockKnown is Known, with the rows locked until the transaction ends, in the one order of keys.
func (l *Ledger) LockKnown(
	ctx context.Context, tx bun.IDB, model string, keys []string,
) (map[string]Known, error) {
	lock := ""
	if l.dialect.LockRows() != "" {
		lock = ` ORDER BY "key" FOR UPDATE`
	}
	return l.known(ctx, tx, model, keys, lock)
}

func (l *Ledger) known(
	ctx context.Context, tx bun.IDB, model string, keys []string, lock string,
) (map[string]Known, error) {
	known := make(map[string]Known, len(keys))
	order := byLength
	if lock != "" {
		order = strings.Compare // the one order of locks
	}
	for chunk := range slices.Chunk(slices.SortedFunc(slices.Values(keys), order), db.MaxKeys) {
		condition, args := db.Among(chunk)
		rows, err := l.lookUp(ctx, tx, model, condition+lock, args...)
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

func (l *Ledger) lookUp(
	ctx context.Context, tx bun.IDB, model, condition string, args ...any,
) ([]Known, error) {
	rows, err := tx.QueryContext(ctx, l.SQL(`
		SELECT "key", revision, deleted, `+l.dialect.Micros("updated_at")+`, `+l.applied+`
		FROM ? WHERE model = ? AND `+condition), append([]any{l.table, model}, args...)...)
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
