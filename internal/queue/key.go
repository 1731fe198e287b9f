package queue

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// KeyEntry is what the ledger has of one key.
type KeyEntry struct {
	Revision int64
	// Produced is the last revision that made a message, nil for none.
	Produced *int64
	Deleted  bool
	// Updated is when the revision was drawn.
	Updated time.Time
}

// UnsentMessage is a message of a key that no broker has confirmed, without what it holds.
type UnsentMessage struct {
	Revision int64
	Signal   string
	// Queue is the one replica that it is for, empty for all.
	Queue   string
	Created time.Time
}

// Retry is that a key waits for another attempt.
type Retry struct {
	Attempts    int
	Error       string
	Since, Next time.Time
}

// KeyEntry returns what the ledger has of a key, nil where it has nothing.
func (q *Queue) KeyEntry(ctx context.Context, key Key) (*KeyEntry, error) {
	var e KeyEntry
	var updated int64
	err := q.DB().QueryRowContext(ctx, q.SQL("SELECT revision, produced, deleted, "+
		q.dialect.Micros("updated_at")+` FROM ? WHERE model = ? AND "key" = ?`),
		q.Table("outbox_revisions"), key.Model, key.Key).
		Scan(&e.Revision, &e.Produced, &e.Deleted, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what the ledger has of a key: %w", err)
	}
	e.Updated = time.UnixMicro(updated).UTC()
	return &e, nil
}

// Retry returns that a key waits for another attempt, nil where it does not.
func (q *Queue) Retry(ctx context.Context, key Key) (*Retry, error) {
	var r Retry
	var since, next int64
	err := q.DB().QueryRowContext(ctx, q.SQL("SELECT attempts, last_error, "+
		q.dialect.Micros("since")+", "+q.dialect.Micros("next_attempt_at")+
		` FROM ? WHERE model = ? AND "key" = ?`), q.Table("outbox_retries"), key.Model, key.Key).
		Scan(&r.Attempts, &r.Error, &since, &next)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read whether a key waits: %w", err)
	}
	r.Since, r.Next = time.UnixMicro(since).UTC(), time.UnixMicro(next).UTC()
	return &r, nil
}

// UnsentOf returns up to limit unsent messages of a key, oldest first. It reads the key's lane.
func (q *Queue) UnsentOf(
	ctx context.Context, key Key, limit int,
) (all []UnsentMessage, err error) {
	lanes, err := q.lanes.Numbering(ctx, q.DB())
	if err != nil {
		return nil, fmt.Errorf("read the unsent messages of a key: %w", err)
	}
	rows, err := q.DB().QueryContext(ctx, q.SQL(`SELECT revision, "signal", queue, `+
		q.dialect.Micros("created_at")+
		` FROM ? WHERE lane = ? AND model = ? AND "key" = ? ORDER BY id LIMIT ?`),
		q.Table("outbox_messages"), lanes.Lane(key.Model, key.Key), key.Model, key.Key, limit)
	if err != nil {
		return nil, fmt.Errorf("read the unsent messages of a key: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var m UnsentMessage
		var queue sql.NullString
		var created int64
		if err := rows.Scan(&m.Revision, &m.Signal, &queue, &created); err != nil {
			return nil, fmt.Errorf("read an unsent message of a key: %w", err)
		}
		m.Queue, m.Created = queue.String, time.UnixMicro(created).UTC()
		all = append(all, m)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read the unsent messages of a key: %w", err)
	}
	return all, nil
}
