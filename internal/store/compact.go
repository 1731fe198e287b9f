package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/uptrace/bun"
)

// compaction is what one Compact looks at.
type compaction struct {
	relay   string
	lanes   []Lane
	starts  []Start
	perLane int
	limit   time.Duration
}

// Compact drops unsent messages that a newer one of their key replaces, among the oldest perLane messages of each lane
// behind its start. The newest takes over the after of the oldest that it replaces, so that replicas see no gap where none
// is. Lanes that relay does not own any more under their epoch stay as they are.
//
// seen is how many messages it looked at, and dropped how many are gone, also beside an error. Where it saw as many as it
// was allowed to, it may be worth calling again. What takes longer than limit is given up, which is no error.
//
// It takes two connections, because one statement keeps one core busy.
func (s *Store) Compact(
	ctx context.Context, relay string, lanes []Lane, starts []Start, perLane int, limit time.Duration,
) (seen, dropped int, err error) {
	if len(lanes) == 0 {
		return 0, 0, nil
	}
	halves := [][]Start{starts[:len(starts)/2], starts[len(starts)/2:]}
	if s.dialect.oneRelay() {
		halves = [][]Start{starts}
	}
	var running sync.WaitGroup
	results := make([]compacted, len(halves))
	for i, half := range halves {
		running.Go(func() { results[i] = s.compact(ctx, compaction{relay, lanes, half, perLane, limit}) })
	}
	running.Wait()
	for _, r := range results {
		seen, dropped, err = seen+r.seen, dropped+r.dropped, errors.Join(err, r.err)
	}
	if err != nil {
		err = fmt.Errorf("drop replaced messages: %w", err)
	}
	return seen, dropped, err
}

type compacted struct {
	seen, dropped int
	err           error
}

func (s *Store) compact(ctx context.Context, c compaction) (r compacted) {
	if len(c.starts) == 0 {
		return r
	}
	late := false
	r.err = s.db.RunInTx(ctx, s.dialect.lanesOptions(), func(ctx context.Context, tx bun.Tx) (err error) {
		// The commit is not limited: were it cut off, nobody would know what is gone.
		limited, cancel := context.WithTimeout(ctx, c.limit)
		defer cancel()
		r.seen, r.dropped, err = s.dialect.compact(limited, tx, s, c)
		late = limited.Err() != nil && ctx.Err() == nil
		return err
	})
	if r.err == nil {
		return r
	}
	if late {
		r.err = nil
	}
	return compacted{err: r.err}
}

// compact is one statement: rows, keys and places are read once, and no message is read that comes in meanwhile. The
// after of a key's first message is null, which stands below all others.
func (p postgres) compact(ctx context.Context, tx bun.IDB, s *Store, c compaction) (seen, dropped int, err error) {
	if _, err := tx.ExecContext(ctx, p.inOrder()); err != nil {
		return 0, 0, err
	}
	messages := s.table("outbox_messages")
	err = tx.QueryRowContext(ctx, `
		WITH seen AS MATERIALIZED (
			SELECT m.ctid AS place, m.id, m.model, m.key, m.after
			FROM `+p.starts(c.starts)+` CROSS JOIN LATERAL (
				SELECT ctid, * FROM ? AS m WHERE m.lane = l.lane AND m.id > l.after ORDER BY m.id LIMIT ?) AS m
			WHERE `+s.sql(replaceable)+` AND l.?),
		keys AS MATERIALIZED (
			SELECT model, key, max(id) AS newest, CASE WHEN count(after) = count(*) THEN min(after) END AS after
			FROM seen GROUP BY model, key HAVING count(*) > 1),
		places AS MATERIALIZED (
			SELECT seen.place, seen.id = keys.newest AS newest, keys.after FROM seen JOIN keys USING (model, key)),
		dropped AS (
			DELETE FROM ? WHERE ctid = ANY (ARRAY(SELECT place FROM places WHERE NOT newest)) RETURNING 1),
		kept AS (
			UPDATE ? AS m SET after = places.after FROM places WHERE places.newest AND m.ctid = places.place)
		SELECT (SELECT count(*) FROM seen), (SELECT count(*) FROM dropped)`,
		messages, c.perLane, s.fence(c.relay, c.lanes), messages, messages).Scan(&seen, &dropped)
	return seen, dropped, err
}

func (mysql) compact(ctx context.Context, tx bun.IDB, s *Store, c compaction) (seen, dropped int, err error) {
	return s.compactLanes(ctx, tx, c,
		"UPDATE ? AS m JOIN ? ON m.id = k.newest SET m.after = k.after",
		"DELETE m FROM ? AS m JOIN ? ON m.model = k.model AND m.`key` = k.`key` AND m.id < k.newest JOIN ? AS n ON n.id = k.newest WHERE ?")
}

func (sqlite) compact(ctx context.Context, tx bun.IDB, s *Store, c compaction) (seen, dropped int, err error) {
	return s.compactLanes(ctx, tx, c,
		"UPDATE ? AS m SET after = k.after FROM ? WHERE m.id = k.newest",
		`DELETE FROM ?0 WHERE id IN (SELECT m.id FROM ?1 CROSS JOIN ?0 AS m ON m.model = k.model AND m.key = k.key AND m.id < k.newest
			JOIN ?0 AS n ON n.id = k.newest WHERE ?3)`)
}

// compactTime is how long a compaction that goes lane by lane takes, about.
const compactTime = 200 * time.Millisecond

// compactLanes goes lane by lane, with one statement that writes the after and one that drops. A message that is
// committed between the two makes the second one leave its key alone, because then the newest has the after of no other.
func (s *Store) compactLanes(ctx context.Context, tx bun.IDB, c compaction, update, drop string) (seen, dropped int, err error) {
	messages := s.table("outbox_messages")
	began := time.Now()
	for _, start := range c.starts {
		if dropped > 0 && time.Since(began) > compactTime {
			break // what is done is done; the transaction holds up others
		}
		var last *int64
		var n int
		err := tx.QueryRowContext(ctx, "SELECT max(m.id), count(*) FROM (SELECT id FROM ? WHERE lane = ? AND id > ? ORDER BY id LIMIT ?) AS m",
			messages, start.Lane, start.After, c.perLane).Scan(&last, &n)
		if err != nil {
			return 0, 0, err
		}
		if n < 2 {
			continue
		}
		seen += n
		part := bun.SafeQuery("m.lane = ? AND m.id > ? AND m.id <= ? AND "+s.sql(replaceable), start.Lane, start.After, *last)
		keys := bun.SafeQuery(s.sql(`(
			SELECT m.model, m."key", max(m.id) AS newest, CASE WHEN count(m.after) = count(*) THEN min(m.after) END AS after
			FROM ? AS m WHERE ? AND ? GROUP BY m.model, m."key" HAVING count(*) > 1) AS k`),
			messages, part, s.fence(c.relay, c.lanes))
		if _, err := tx.ExecContext(ctx, update, messages, keys); err != nil {
			return 0, 0, err
		}
		result, err := tx.ExecContext(ctx, drop, messages, keys, messages,
			bun.SafeQuery("? AND (n.after IS NULL OR m.revision > n.after)", part))
		if err != nil {
			return 0, 0, err
		}
		gone, err := result.RowsAffected()
		if err != nil {
			return 0, 0, err
		}
		dropped += int(gone)
	}
	return seen, dropped, nil
}
