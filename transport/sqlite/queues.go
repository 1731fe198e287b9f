package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// QueueInfo is what a file knows of a queue.
type QueueInfo struct {
	Name   string
	Topics []string
	// Waiting counts its messages, those in the hands of consumers included; Oldest is the time at
	// which the oldest was published, zero without one.
	Waiting int64
	Oldest  time.Time
	// Consumers are those alive.
	Consumers int64
}

// Queues lists the queues of the file at path.
func Queues(ctx context.Context, path string) (queues []QueueInfo, err error) {
	err = visit(ctx, path, func(ctx context.Context, f *file) error {
		h, err := f.open(ctx, existing)
		if err != nil {
			return f.unavailable(err)
		}
		// One statement, one moment. Queues without a topic are those that are being removed.
		rows, err := h.reader.QueryContext(ctx, `SELECT q.queue, t.topic,
				(SELECT count(*) FROM messages WHERE queue = q.queue),
				coalesce((SELECT min(published_at) FROM messages WHERE queue = q.queue), 0),
				(SELECT count(*) FROM consumers WHERE queue = q.queue AND leased_until >= ?)
			FROM (SELECT queue FROM bindings UNION SELECT queue FROM messages) AS q
				LEFT JOIN bindings AS t ON t.queue = q.queue
			ORDER BY q.queue, t.topic`, time.Now().UnixMilli())
		if err != nil {
			return f.unavailable(err)
		}
		defer rows.Close()
		for rows.Next() {
			var q QueueInfo
			var topic *string
			var oldest int64
			if err := rows.Scan(&q.Name, &topic, &q.Waiting, &oldest, &q.Consumers); err != nil {
				return err
			}
			if oldest > 0 {
				q.Oldest = time.UnixMilli(oldest)
			}
			if n := len(queues); n == 0 || queues[n-1].Name != q.Name {
				queues = append(queues, q)
			}
			if topic != nil {
				last := &queues[len(queues)-1]
				last.Topics = append(last.Topics, *topic)
			}
		}
		return f.unavailable(rows.Err())
	})
	return queues, err
}

// Errors of RemoveQueue; ask with errors.Is.
var (
	// ErrNoQueue says that the file has no queue of that name.
	ErrNoQueue = errors.New("no such queue")
	// ErrInUse says that the queue has consumers.
	ErrInUse = errors.New("the queue has consumers: stop the replica first")
)

// RemoveQueue removes a queue from the file at path, with the messages that wait in it, and returns
// how many those were: for a replica that is gone for good. A replica that subscribes again has a
// new queue, and misses what was published in between. It is refused while the queue has consumers.
func RemoveQueue(ctx context.Context, path, queue string) (dropped int64, err error) {
	err = visit(ctx, path, func(ctx context.Context, f *file) error {
		if err := f.write(ctx, existing, durable, func(ctx context.Context, tx transaction) error {
			return unbind(ctx, tx, queue)
		}); err != nil {
			return err
		}
		for n := int64(pruneLimit); n == pruneLimit; dropped += n {
			err := f.write(ctx, existing, durable, func(ctx context.Context, tx transaction) error {
				result, err := tx.ExecContext(ctx,
					"DELETE FROM messages WHERE id IN (SELECT id FROM messages WHERE queue = ? "+
						"LIMIT ?)", queue, pruneLimit)
				if err != nil {
					return err
				}
				n, err = result.RowsAffected()
				return err
			})
			if err != nil {
				return fmt.Errorf("after %d messages of the queue %q, which gets no more: %w",
					dropped, queue, err)
			}
		}
		return nil
	})
	return dropped, err
}

// unbind ends the queue's share of what is published.
func unbind(ctx context.Context, tx transaction, queue string) error {
	var known bool
	var consumers int64
	err := tx.QueryRowContext(ctx, `SELECT
			EXISTS (SELECT 1 FROM bindings WHERE queue = ?1)
				OR EXISTS (SELECT 1 FROM messages WHERE queue = ?1),
			(SELECT count(*) FROM consumers WHERE queue = ?1 AND leased_until >= ?2)`,
		queue, time.Now().UnixMilli()).Scan(&known, &consumers)
	switch {
	case err != nil:
		return err
	case !known:
		return fmt.Errorf("%w: %q", ErrNoQueue, queue)
	case consumers > 0:
		return fmt.Errorf("%w: %q has %d", ErrInUse, queue, consumers)
	}
	var noted bool
	row := tx.QueryRowContext(ctx,
		"SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'databases')")
	if err := row.Scan(&noted); err != nil {
		return err
	}
	if noted { // see Register: a queue that is made again knows nothing of the database before
		if _, err := tx.ExecContext(ctx, "DELETE FROM databases WHERE queue = ?",
			queue); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, "DELETE FROM bindings WHERE queue = ?", queue)
	return err
}

// visit opens the file for a moment.
func visit(ctx context.Context, path string, do func(context.Context, *file) error) error {
	config, err := Config{Path: path, Logger: slog.Default()}.complete()
	if err != nil {
		return err
	}
	f := open(config)
	return errors.Join(do(ctx, f), f.release())
}
