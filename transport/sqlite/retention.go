package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

const (
	pruneEvery = time.Minute
	// pruneLimit is how many messages one prune drops from a queue, so that no transaction is long.
	pruneLimit = 2000

	pollEvery     = time.Minute
	complainEvery = time.Hour
	// neglectAfter is how old the oldest message of a queue may be that has no consumer.
	neglectAfter = time.Hour
)

// prune drops what has expired, and the oldest messages of each queue, where they are older than
// the retention: these it counts by queue. It runs within publishing, because only publishing makes
// a queue grow; after a full catch the next batch prunes again, so that it keeps up.
func (p *Publisher) prune(
	ctx context.Context, tx transaction,
) (dropped map[string]int64, err error) {
	now := time.Now()
	if now.Before(p.nextPrune) {
		return nil, nil
	}
	expired, err := expire(ctx, tx, now)
	if err != nil {
		return nil, err
	}
	p.nextPrune = now.Add(pruneEvery)
	if expired == pruneLimit {
		p.nextPrune = now
	}
	if p.config.Retention == 0 {
		return nil, nil
	}
	queues, err := queueNames(ctx, tx)
	if err != nil {
		return nil, err
	}
	dropped = map[string]int64{}
	for _, queue := range queues {
		// The oldest have the lowest ids, so the limit stands inside: nothing is read beyond them.
		result, err := tx.ExecContext(ctx, `DELETE FROM messages WHERE published_at < ?1 AND id IN
			(SELECT id FROM messages WHERE consumer = 0 AND queue = ?2 ORDER BY id LIMIT ?3)`,
			now.Add(-p.config.Retention).UnixMilli(), queue, pruneLimit)
		if err != nil {
			return nil, err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return nil, err
		}
		if n == pruneLimit {
			p.nextPrune = now
		}
		if n > 0 {
			dropped[queue] = n
		}
	}
	return dropped, nil
}

// neglect is a queue that grows and that nobody reads.
type neglect struct {
	queue  string
	oldest time.Time
}

// neglectedQueues finds them, once a minute. It counts nothing: that
// would take long where it matters.
func (p *Publisher) neglectedQueues(ctx context.Context, tx transaction) ([]neglect, error) {
	now := time.Now()
	if now.Before(p.nextCheck) {
		return nil, nil
	}
	p.nextCheck = now.Add(pollEvery)
	queues, err := queueNames(ctx, tx)
	if err != nil {
		return nil, err
	}
	var found []neglect
	for _, queue := range queues {
		var oldest int64
		row := tx.QueryRowContext(ctx, `SELECT published_at FROM messages
			WHERE consumer = 0 AND queue = ?1 AND NOT EXISTS (
				SELECT 1 FROM consumers WHERE queue = ?1 AND leased_until >= ?2)
			ORDER BY id LIMIT 1`,
			queue, now.UnixMilli())
		err := row.Scan(&oldest)
		switch {
		case errors.Is(err, sql.ErrNoRows):
		case err != nil:
			return nil, err
		case now.Sub(time.UnixMilli(oldest)) > neglectAfter:
			found = append(found, neglect{queue, time.UnixMilli(oldest)})
		}
	}
	return found, nil
}

// complain names neglected queues in the log, each once an hour.
func (p *Publisher) complain(ctx context.Context, found []neglect) {
	now := time.Now()
	for _, n := range found {
		if now.Sub(p.neglected[n.queue]) < complainEvery {
			continue
		}
		p.neglected[n.queue] = now
		p.config.Logger.WarnContext(ctx, "nobody reads a queue, and it grows: start its replica, or "+
			"remove the queue with relay queues remove", "queue", n.queue,
			"oldest", now.Sub(n.oldest).Round(time.Second), "file", p.file.path)
	}
}

func queueNames(ctx context.Context, tx transaction) (names []string, err error) {
	rows, err := tx.QueryContext(ctx, "SELECT DISTINCT queue FROM bindings")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}
