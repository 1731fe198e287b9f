package queue

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// DeadLetter is a message that the relay gave up.
type DeadLetter struct {
	Message
	// Attempts is how often it was tried.
	Attempts int
	// Error is why the last attempt failed.
	Error string
	// Dead is when it was given up.
	Dead time.Time
}

// DeadLetters calls fn for at most limit dead letters, in the order of their identity; 0 means all
// of them. Do not use the store inside fn: on SQLite it may wait for itself.
func (q *Queue) DeadLetters(
	ctx context.Context, f db.DeadLetterFilter, limit int, fn func(DeadLetter) error,
) error {
	condition, args := f.Condition(q.Database)
	query := q.SQL(`
		SELECT id, model, "key", revision, after, "signal", queue, pk, data, previous, meta,
			headers, correlation_id, `) +
		q.dialect.Micros("updated_at") + ", " + q.dialect.Micros("created_at") + ", " +
		q.dialect.Micros("expires_at") +
		", attempts, last_error, " + q.dialect.Micros("dead_at") + " FROM ? WHERE " + condition +
		" ORDER BY id"
	if limit > 0 {
		query += fmt.Sprintf(" LIMIT %d", limit)
	}
	rows, err := q.DB().QueryContext(ctx, query, append([]any{q.Table("outbox_dead_letters")},
		args...)...)
	if err != nil {
		return fmt.Errorf("read dead letters: %w", err)
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		d, err := scanDeadLetter(rows)
		if err != nil {
			return fmt.Errorf("read a dead letter: %w", err)
		}
		if err := fn(d); err != nil {
			return err
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("read dead letters: %w", err)
	}
	return nil
}

func scanDeadLetter(rows *sql.Rows) (d DeadLetter, err error) {
	var queue, correlation sql.NullString
	var headers []byte
	var updated, created, dead int64
	var expires sql.NullInt64
	err = rows.Scan(&d.ID, &d.Model, &d.Key, &d.Revision, &d.After, &d.Signal, &queue,
		(*[]byte)(&d.PK), (*[]byte)(&d.Data),
		(*[]byte)(&d.Previous), (*[]byte)(&d.Meta), &headers, &correlation,
		&updated, &created, &expires, &d.Attempts, &d.Error, &dead)
	if err != nil {
		return d, err
	}
	// Headers that are none are perhaps why the message died. They are shown as they are.
	if len(headers) > 0 && json.Unmarshal(headers, &d.Headers) != nil {
		d.Headers = map[string]string{"": string(headers)}
	}
	d.Queue, d.CorrelationID = queue.String, correlation.String
	d.Updated, d.Created = time.UnixMicro(updated).UTC(), time.UnixMicro(created).UTC()
	d.Dead = time.UnixMicro(dead).UTC()
	if expires.Valid {
		d.Expires = time.UnixMicro(expires.Int64).UTC()
	}
	return d, nil
}

// ErrSuperseded is why a dead letter stays one: sent now it would overtake, or bring back what is
// gone.
var ErrSuperseded = errors.New("it is superseded")

// RetryDeadLetter puts a dead letter back into the outbox, if nothing newer of its key was ever
// sent or is on its way: else it returns ErrSuperseded with the reason, and the letter stays. It
// returns sql.ErrNoRows for one that is not there any more.
//
// The key is locked in the ledger as any writer locks it. So what a writer appends afterwards
// stands behind the message, and what one appended before has made it superseded.
func (q *Queue) RetryDeadLetter(ctx context.Context, id int64) error {
	err := q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		var d Message
		err := tx.QueryRowContext(ctx,
			q.SQL(`SELECT model, "key", revision, "signal" FROM ? WHERE id = ?`),
			q.Table("outbox_dead_letters"), id).Scan(&d.Model, &d.Key, &d.Revision, &d.Signal)
		if err != nil {
			return err
		}
		if err := q.requireNewest(ctx, tx, d); err != nil {
			return err
		}
		lanes, err := q.lanes.Numbering(ctx, tx)
		if err != nil {
			return err
		}
		put, err := tx.ExecContext(ctx, q.SQL("INSERT INTO ? (lane, "+contentColumns+") SELECT "+
			q.lanes.Value()+", "+contentColumns+" FROM ? WHERE id = ?"),
			q.Table("outbox_messages"), lanes.Lane(d.Model,
				d.Key), q.Table("outbox_dead_letters"), id)
		if err != nil {
			return q.lanes.Refused(err)
		}
		if n, err := put.RowsAffected(); err != nil || n == 0 {
			return errors.Join(err, sql.ErrNoRows) // another retry was first
		}
		_, err = tx.ExecContext(ctx, "DELETE FROM ? WHERE id = ?", q.Table("outbox_dead_letters"),
			id)
		return err
	})
	if err != nil {
		return fmt.Errorf("retry dead letter %d: %w", id, err)
	}
	return nil
}

// requireNewest locks the key of a message that is to go out again, and returns an error unless it
// is the newest one of its key.
func (q *Queue) requireNewest(ctx context.Context, tx bun.IDB, m Message) error {
	// An update locks on every database alike, and what follows the retried message must not pass
	// it.
	if err := q.ledger.NoteResent(ctx, tx, m.Model, []string{m.Key}); err != nil {
		return err
	}
	var revision, produced int64
	var deleted bool
	err := tx.QueryRowContext(ctx, q.SQL(`SELECT revision, coalesce(produced, -1), deleted
		FROM ? WHERE model = ? AND "key" = ?`),
		q.Table("outbox_revisions"), m.Model, m.Key).Scan(&revision, &produced, &deleted)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fmt.Errorf("%w: the ledger does not know its key", ErrSuperseded)
	case err != nil:
		return err
	case produced > m.Revision:
		return fmt.Errorf("%w: revision %d of its key has been sent or is on its way",
			ErrSuperseded, produced)
	case deleted && m.Signal != "DELETE":
		return fmt.Errorf("%w: its key was deleted in revision %d", ErrSuperseded, revision)
	default:
		return nil
	}
}

// PurgeDeadLetters forgets dead letters for good and returns how many.
func (q *Queue) PurgeDeadLetters(ctx context.Context, f db.DeadLetterFilter) (int64, error) {
	condition, args := f.Condition(q.Database)
	var n int64
	err := q.InBounds(ctx, q.Bounds(), func(ctx context.Context, tx bun.IDB) error {
		done, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE "+condition,
			append([]any{q.Table("outbox_dead_letters")}, args...)...)
		if err == nil {
			n, err = done.RowsAffected()
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("purge dead letters: %w", err)
	}
	return n, nil
}
