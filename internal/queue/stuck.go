package queue

import (
	"context"
	"fmt"
	"time"
)

// Stuck is a message that does not leave: it waits for another attempt, or was given up.
type Stuck struct {
	Key
	// ID is that of a dead letter, 0 of what waits.
	ID int64
	// Attempts is how often it was tried, and Error why the last one failed.
	Attempts int
	Error    string
	// Since is when its key began to wait, or when it was given up.
	Since time.Time
}

// Stuck returns up to limit keys that wait for another attempt, and the latest dead letters, also
// up to limit, by the database's clock. What the messages hold is not read.
func (q *Queue) Stuck(ctx context.Context, limit int) (waiting, dead []Stuck, err error) {
	micros := q.dialect.Micros
	waiting, err = q.stuck(ctx, `SELECT 0, model, "key", attempts, last_error, `+micros("since")+
		" FROM ? LIMIT ?", "outbox_retries", limit)
	if err == nil {
		dead, err = q.stuck(ctx, `SELECT id, model, "key", attempts, last_error, `+
			micros("dead_at")+" FROM ? ORDER BY id DESC LIMIT ?", "outbox_dead_letters", limit)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read what is stuck: %w", err)
	}
	return waiting, dead, nil
}

func (q *Queue) stuck(
	ctx context.Context, statement, table string, limit int,
) (all []Stuck, err error) {
	rows, err := q.DB().QueryContext(ctx, q.SQL(statement), q.Table(table), limit)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var s Stuck
		var since int64
		err := rows.Scan(&s.ID, &s.Model, &s.Key.Key, &s.Attempts, &s.Error, &since)
		if err != nil {
			return nil, err
		}
		s.Since = time.UnixMicro(since).UTC()
		all = append(all, s)
	}
	return all, rows.Err()
}
