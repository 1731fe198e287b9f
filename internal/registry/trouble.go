package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Trouble is what a process says is wrong with something that it needs.
type Trouble struct {
	// Source is who says so, and What what it is about.
	Source, What string
	Error        string
	// Since is when it began.
	Since time.Time
}

// maxTroubles bounds what is kept of them.
const maxTroubles = 1000

// SayTroubles notes what is wrong by what source sees, in place of what it said before. Since
// counts by the caller's clock: what is written is how long ago it was.
func (r *Registry) SayTroubles(ctx context.Context, source string, troubles []Trouble) error {
	err := r.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		now, table := r.Dialect().Now(), r.Table("outbox_troubles")
		if _, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE source = ? OR said_at < "+
			r.Dialect().After(now, -forgottenAfter), table, source); err != nil {
			return err
		}
		n, err := r.count(ctx, tx, "outbox_troubles", "source <> ?", source)
		if err != nil || n+len(troubles) > maxTroubles {
			return err
		}
		for _, t := range troubles {
			if _, err := tx.ExecContext(ctx, "INSERT INTO ? (source, what, error, since, said_at) "+
				"VALUES (?, ?, ?, "+r.Dialect().After(now, -time.Since(t.Since))+", "+now+")",
				table, source, t.What, t.Error); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note what is wrong: %w", err)
	}
	return nil
}

// Troubles returns what was said to be wrong within so long.
func (r *Registry) Troubles(ctx context.Context, within time.Duration) ([]Trouble, error) {
	rows, err := r.DB().QueryContext(ctx, "SELECT source, what, error, "+
		r.Dialect().Micros("since")+" FROM ? WHERE said_at >= "+
		r.Dialect().After(r.Dialect().Now(), -within)+" ORDER BY since, source, what",
		r.Table("outbox_troubles"))
	if err != nil {
		return nil, fmt.Errorf("read what is wrong: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var all []Trouble
	for rows.Next() {
		var t Trouble
		var since int64
		if err := rows.Scan(&t.Source, &t.What, &t.Error, &since); err != nil {
			return nil, fmt.Errorf("read what is wrong: %w", err)
		}
		t.Since = time.UnixMicro(since).UTC()
		all = append(all, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read what is wrong: %w", err)
	}
	return all, nil
}
