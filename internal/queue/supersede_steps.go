package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/uptrace/bun"
)

func (q *Queue) supersedeInSteps(ctx context.Context, c *supersession) error {
	return q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		// Not in the statement that locks the messages: it would lock the lanes, too, on which
		// other relays wait.
		var owned []int
		err := tx.NewRaw("SELECT lane FROM ? WHERE ?", q.Table("outbox_lanes"),
			q.fence(c.relay, c.lanes)).Scan(ctx, &owned)
		if err != nil || len(owned) == 0 {
			return err
		}
		found, err := q.holdSuperseded(ctx, tx, c, owned)
		if err != nil {
			return err
		}
		held, err := q.heldByOthers(ctx, tx, c, found)
		if err != nil {
			return err
		}
		var kept, older []*Claimed
		for _, m := range c.list {
			if !found[m.ID] {
				continue
			}
			kept, c.kept[m.ID] = append(kept, m.Claimed), ""
			stays := slices.ContainsFunc(m.Older, func(old *Claimed) bool { return held[old.ID] })
			for _, old := range m.Older {
				if found[old.ID] && !stays {
					older, c.removed[old.ID] = append(older, old), true
				}
			}
		}
		messages := q.Table("outbox_messages")
		for few := range slices.Chunk(kept, maxCases) {
			var cases strings.Builder
			ids := make([]int64, len(few))
			for i, m := range few {
				ids[i] = m.ID
				if m.After != nil { // it is null where no case says otherwise
					fmt.Fprintf(&cases, " WHEN %d THEN %d", m.ID, *m.After)
				}
			}
			_, err := tx.ExecContext(ctx,
				"UPDATE ? SET after = CASE id WHEN 0 THEN 0"+cases.String()+
					" END WHERE id IN (?)", messages, bun.List(ids))
			if err != nil {
				return err
			}
		}
		if len(older) == 0 {
			return nil
		}
		ids := make([]int64, len(older))
		for i, m := range older {
			ids[i] = m.ID
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE id IN (?)", messages, bun.List(ids))
		return err
	})
}

// heldByOthers are the older ones that are there and were not to be had. Mostly all were.
func (q *Queue) heldByOthers(
	ctx context.Context, tx bun.IDB, c *supersession, found map[int64]bool,
) (map[int64]bool, error) {
	var missed []int64
	for _, m := range c.list {
		for _, old := range m.Older {
			if !found[old.ID] {
				missed = append(missed, old.ID)
			}
		}
	}
	held := map[int64]bool{}
	if len(missed) == 0 {
		return held, nil
	}
	var there []int64
	err := tx.NewRaw("SELECT id FROM ? WHERE id IN (?)", q.Table("outbox_messages"),
		bun.List(missed)).Scan(ctx, &there)
	for _, id := range there {
		held[id] = true
	}
	return held, err
}

// maxCases bounds a CASE, which is read from its beginning for each row.
const maxCases = 200

// holdSuperseded locks the rows of all messages in lanes, and returns the identities of those that
// are what they were.
func (q *Queue) holdSuperseded(
	ctx context.Context, tx bun.IDB, c *supersession, lanes []int,
) (map[int64]bool, error) {
	expected := map[int64]*Claimed{}
	for _, m := range c.list {
		expected[m.ID] = m.Claimed
		for _, old := range m.Older {
			expected[old.ID] = old
		}
	}
	ids := make([]int64, 0, len(expected))
	for id := range expected {
		ids = append(ids, id)
	}
	slices.Sort(ids) // the one order of locks
	rows, err := tx.QueryContext(ctx,
		q.SQL(`SELECT `+identityColumns(q.dialect)+` FROM ?
			WHERE id IN (?) AND lane IN (?) ORDER BY id `)+q.dialect.LockRows(),
		q.Table("outbox_messages"), bun.List(ids), bun.List(lanes))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	found := make(map[int64]bool, len(ids))
	for rows.Next() {
		id, same, err := scanIdentity(rows, expected)
		if err != nil {
			return nil, err
		}
		found[id] = same
	}
	return found, rows.Err()
}
