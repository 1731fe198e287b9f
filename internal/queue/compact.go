package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Compacted is what one Compact did.
type Compacted struct {
	Seen    int // messages it looked at: as many as it was allowed to if there may be more
	Dropped int
	// Left is where to begin next time: the starts, each moved past what was dropped right behind
	// it, up to the first message that stayed. It moves on PostgreSQL only, where until a vacuum a
	// query reads dropped rows as slowly as live ones.
	Left []Start
}

// compaction is what one Compact looks at.
type compaction struct {
	relay   string
	lanes   []Lane
	starts  []Start
	perLane int
	limit   time.Duration
}

// Compact drops unsent messages that a newer one of their key replaces, among the oldest perLane
// messages of each lane behind its start. The newest takes over the after of the oldest that it
// replaces, so that replicas see no gap where none is; and a key stays as it is that has a message
// among them which may not be dropped, because that one names the one before it. Lanes that relay
// does not own any more under their epoch stay as they are.
//
// What it returns holds also beside an error. What takes longer than limit is given up, and so is
// what the database gives up because of another transaction, such as a deadlock of two connections
// of MariaDB: that is no error.
//
// It takes two connections, because one statement keeps one core busy.
func (q *Queue) Compact(
	ctx context.Context, relay string, lanes []Lane, starts []Start, perLane int, limit time.Duration,
) (all Compacted, err error) {
	if len(lanes) == 0 {
		return all, nil
	}
	halves := [][]Start{starts[:len(starts)/2], starts[len(starts)/2:]}
	if q.dialect.oneRelay() {
		halves = [][]Start{starts}
	}
	var running sync.WaitGroup
	results, errs := make([]Compacted, len(halves)), make([]error, len(halves))
	for i, half := range halves {
		running.Go(func() {
			results[i], errs[i] = q.compact(ctx, compaction{relay, lanes, half, perLane, limit})
		})
	}
	running.Wait()
	for _, r := range results {
		all.Seen, all.Dropped, all.Left = all.Seen+r.Seen, all.Dropped+
			r.Dropped, append(all.Left, r.Left...)
	}
	if err = errors.Join(errs...); err != nil {
		err = fmt.Errorf("drop replaced messages: %w", err)
	}
	return all, err
}

func (q *Queue) compact(ctx context.Context, c compaction) (r Compacted, err error) {
	none := Compacted{Left: c.starts}
	if len(c.starts) == 0 {
		return none, nil
	}
	late := false
	err = q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) (err error) {
		// The commit is not limited: were it cut off, nobody would know what is gone.
		limited, cancel := context.WithTimeout(ctx, c.limit)
		defer cancel()
		r, err = q.dialect.compact(limited, tx, q, c)
		late = limited.Err() != nil && ctx.Err() == nil
		return err
	})
	switch {
	case err == nil:
		return r, nil
	case late || errors.Is(err, errMoved) || db.Conflicted(err) || db.LockTimedOut(err):
		return none, nil
	}
	return none, err
}

// errMoved says that somebody changed a row while a compaction looked at it.
var errMoved = errors.New("a message was changed meanwhile")

// compact is one statement: rows, keys and places are read once, and no message is read that comes
// in meanwhile. The after of a key's first message is null, which stands below all others. A row
// that the lane's former owner changes at the same time is not where it was seen, and would stay,
// with an after that is gone: so all of it is given up.
func (p postgres) compact(
	ctx context.Context, tx bun.IDB, q *Queue, c compaction,
) (r Compacted, err error) {
	if _, err := tx.ExecContext(ctx, p.inOrder()); err != nil {
		return r, err
	}
	messages := q.Table("outbox_messages")
	var left []byte
	moved := 0
	err = tx.QueryRowContext(ctx, `
		WITH seen AS MATERIALIZED (
			SELECT m.ctid AS place, m.id, m.lane, m.model, m.key, m.after, m.signal,
				`+q.SQL(replaceable)+` AS replaceable
			FROM `+p.starts(c.starts)+` CROSS JOIN LATERAL (
				SELECT ctid, * FROM ? AS m WHERE m.lane = l.lane AND m.id > l.after ORDER BY m.id LIMIT ?) AS m
			WHERE l.?),
		keys AS MATERIALIZED (
			SELECT min(lane) AS lane, model, key, count(*) > 1 AND bool_and(replaceable) AS several,
				min(id) AS oldest, max(id) AS newest,
				CASE WHEN count(after) = count(*) THEN min(after) END AS after
			FROM seen WHERE signal <> 'SYNC' GROUP BY model, key),
		places AS MATERIALIZED (
			SELECT seen.place, seen.id = keys.newest AS newest, keys.after
			FROM seen JOIN keys USING (model, key)
			WHERE seen.replaceable AND keys.several),
		dropped AS (
			DELETE FROM ? WHERE ctid = ANY (ARRAY(SELECT place FROM places WHERE NOT newest)) RETURNING 1),
		kept AS (
			UPDATE ? AS m SET after = places.after FROM places
			WHERE places.newest AND m.ctid = places.place RETURNING 1),
		remaining AS (
			SELECT lane, min(id) - 1 AS before
			FROM (SELECT lane, CASE WHEN several THEN newest ELSE oldest END AS id FROM keys
				UNION ALL SELECT lane, id FROM seen WHERE signal = 'SYNC') AS m GROUP BY lane)
		SELECT (SELECT count(*) FROM seen WHERE replaceable), (SELECT count(*) FROM dropped),
			(SELECT count(*) FROM places) - (SELECT count(*) FROM dropped) - (SELECT count(*) FROM kept),
			(SELECT json_object_agg(lane, before) FROM remaining)`,
		messages, c.perLane, q.fence(c.relay,
			c.lanes), messages, messages).Scan(&r.Seen, &r.Dropped, &moved, &left)
	if moved > 0 {
		return r, errMoved
	}
	if err != nil || left == nil {
		r.Left = c.starts
		return r, err
	}
	before := map[int]int64{}
	if err := json.Unmarshal(left, &before); err != nil {
		return r, err
	}
	for _, start := range c.starts {
		r.Left = append(r.Left, Start{Lane: start.Lane,
			After: max(start.After, before[start.Lane])})
	}
	return r, nil
}

func (mariadb) compact(ctx context.Context, tx bun.IDB, q *Queue, c compaction) (Compacted, error) {
	return q.compactLanes(ctx, tx, c,
		"UPDATE ? AS m JOIN ? ON m.id = k.newest SET m.after = k.after",
		"DELETE m FROM ? AS m "+
			"JOIN ? ON m.model = k.model AND m.`key` = k.`key` AND m.id < k.newest "+
			"JOIN ? AS n ON n.id = k.newest WHERE ?")
}

func (sqlite) compact(ctx context.Context, tx bun.IDB, q *Queue, c compaction) (Compacted, error) {
	return q.compactLanes(ctx, tx, c,
		"UPDATE ? AS m SET after = k.after FROM ? WHERE m.id = k.newest",
		`DELETE FROM ?0 WHERE id IN (SELECT m.id FROM ?1
			CROSS JOIN ?0 AS m ON m.model = k.model AND m.key = k.key AND m.id < k.newest
			JOIN ?0 AS n ON n.id = k.newest WHERE ?3)`)
}

// compactTime is how long a compaction that goes lane by lane takes, about.
const compactTime = 200 * time.Millisecond

// compactLanes goes lane by lane, with one statement that writes the after and one that drops. A
// message that is committed between the two makes the second one leave its key alone, because then
// the newest has the after of no other.
func (q *Queue) compactLanes(
	ctx context.Context, tx bun.IDB, c compaction, update, drop string,
) (r Compacted, err error) {
	r.Left = c.starts
	messages := q.Table("outbox_messages")
	began := time.Now()
	for _, start := range c.starts {
		if r.Dropped > 0 && time.Since(began) > compactTime {
			break // what is done is done; the transaction holds up others
		}
		var last *int64
		var n int
		err := tx.QueryRowContext(ctx,
			"SELECT max(m.id), count(*) FROM (SELECT id FROM ? WHERE lane = ? AND id > ? ORDER BY "+
				"id LIMIT ?) AS m",
			messages, start.Lane, start.After, c.perLane).Scan(&last, &n)
		if err != nil {
			return r, err
		}
		if n < 2 {
			continue
		}
		r.Seen += n
		part := bun.SafeQuery("m.lane = ? AND m.id > ? AND m.id <= ?", start.Lane, start.After,
			*last)
		keys := bun.SafeQuery(q.SQL(`(
		SELECT m.model, m."key", max(m.id) AS newest,
			CASE WHEN count(m.after) = count(*) THEN min(m.after) END AS after
			FROM ? AS m WHERE ? AND m."signal" <> 'SYNC' AND ? GROUP BY m.model, m."key"
			HAVING count(*) > 1 AND min(CASE WHEN `+replaceable+` THEN 1 ELSE 0 END) = 1) AS k`),
			messages, part, q.fence(c.relay, c.lanes))
		if _, err := tx.ExecContext(ctx, update, messages, keys); err != nil {
			return r, err
		}
		result, err := tx.ExecContext(ctx, drop, messages, keys, messages,
			bun.SafeQuery("? AND "+q.SQL(replaceable)+
				" AND (n.after IS NULL OR m.revision > n.after)", part))
		if err != nil {
			return r, err
		}
		gone, err := result.RowsAffected()
		if err != nil {
			return r, err
		}
		r.Dropped += int(gone)
	}
	return r, nil
}
