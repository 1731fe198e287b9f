package sqlite

import (
	"context"
	"time"
)

const (
	pruneEvery = time.Minute
	// pruneLimit is how many messages one prune drops from a queue, so that no transaction is long.
	pruneLimit = 2000
)

// prune drops the oldest messages of each queue, where they have expired. It runs within publishing, because only
// publishing makes a queue grow; after a full catch the next batch prunes again, so that it keeps up.
func (p *Publisher) prune(ctx context.Context, tx transaction) (dropped int64, err error) {
	now := time.Now()
	if p.config.Retention == Forever || now.Before(p.nextPrune) {
		return 0, nil
	}
	queues, err := queueNames(ctx, tx)
	if err != nil {
		return 0, err
	}
	p.nextPrune = now.Add(pruneEvery)
	for _, queue := range queues {
		// The oldest have the lowest ids, so the limit stands inside: nothing is read beyond them.
		result, err := tx.ExecContext(ctx, `DELETE FROM messages WHERE published_at < ?1 AND id IN
			(SELECT id FROM messages WHERE consumer = 0 AND queue = ?2 ORDER BY id LIMIT ?3)`,
			now.Add(-p.config.Retention).UnixMilli(), queue, pruneLimit)
		if err != nil {
			return 0, err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return 0, err
		}
		if n == pruneLimit {
			p.nextPrune = now
		}
		dropped += n
	}
	return dropped, nil
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
