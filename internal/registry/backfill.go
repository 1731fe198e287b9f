package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Backfill sends all of a model, or what a filter selects, to the queue of one replica.
type Backfill struct {
	Queue, Model string
	// ID tells a backfill from others of the same model: who asks again means the same one.
	ID string
	// Filter is JSON; {} selects all.
	Filter string
	// Rate is how many rows a second are sent at most; 0 for as many as go.
	Rate int
	// After is the last primary key that the broker has; nil at the beginning.
	After json.RawMessage
	// Sent rows are with the broker. Bad ones cannot be sent.
	Sent, Bad int64
	// Total is how many there are about; -1 where nobody has counted them.
	Total int64
	// Error is why it does not go on, or why the last bad row cannot be sent.
	Error string
	// Asked is when it was asked for, Started when the first one took it, Updated when it moved
	// last. Started and Finished are zero before that.
	Asked, Started, Updated, Finished time.Time
	// Owner does it until Expires; "" for nobody.
	Owner   string
	Expires time.Time
}

// All of a model is this filter.
const All = "{}"

// Whole says that it is about all of a model.
func (b Backfill) Whole() bool { return b.Filter == All }

// BusyError says that another backfill of the model is under way, with another filter.
type BusyError struct{ Backfill }

func (e *BusyError) Error() string {
	return fmt.Sprintf("a backfill of %s for %s is under way with the filter %s: wait for its "+
		"end, or cancel it",
		e.Model, e.Queue, e.Filter)
}

// Order asks for a backfill as an operator does: one that is under way with the same filter goes
// on, one with another filter is a *BusyError, and one that is over begins anew.
func (r *Registry) Order(ctx context.Context, b Backfill) (now Backfill, err error) {
	return r.ask(ctx, b, func(known Backfill) (bool, error) {
		if !known.Finished.IsZero() {
			return true, nil
		}
		if known.Filter != b.Filter {
			return false, &BusyError{known}
		}
		return false, nil
	})
}

// reaskAfter is how soon a replica may have the same model once more under another id.
const reaskAfter = time.Minute

// ErrTooSoon says that a replica has asked for the same model a moment ago.
var ErrTooSoon = errors.New("the replica has asked for a backfill of this model within the last " +
	"minute")

// Request asks for a backfill as a replica does: the one with the same id goes on, or stays at its
// end. Another one begins anew, because what was sent before may have gone to another database.
func (r *Registry) Request(ctx context.Context, b Backfill) (now Backfill, err error) {
	return r.ask(ctx, b, func(known Backfill) (bool, error) {
		if known.ID == b.ID {
			return false, nil
		}
		if known.ID != "" && known.Updated.Sub(known.Asked) < reaskAfter {
			return false, ErrTooSoon
		}
		return true, nil
	})
}

// ask notes a backfill where anew, which is told what is known, says so. Updated of that is the
// time now.
func (r *Registry) ask(
	ctx context.Context, b Backfill, anew func(known Backfill) (bool, error),
) (now Backfill, err error) {
	table, clock := r.Table("outbox_backfills"), r.Dialect().Now()
	err = r.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		// A row without an id is one that never was. It is there to be locked.
		_, err := tx.ExecContext(ctx, `INSERT INTO ? (queue, model, id, filter, rate, sent, bad,
				error, asked_at, updated_at, finished_at)
			VALUES (?, ?, '', '{}', 0, 0, 0, '', `+clock+", "+clock+", "+clock+")"+
			r.Upsert("queue, model", "model"), table, b.Queue, b.Model)
		if err != nil {
			return err
		}
		known, err := r.readBackfills(ctx, tx, " WHERE queue = ? AND model = ?", b.Queue, b.Model)
		if err != nil {
			return err
		}
		now = known[0]
		asked := now
		if err := tx.QueryRowContext(ctx, "SELECT "+
			r.Dialect().Micros(clock)).Scan(timeInto(&asked.Updated)); err != nil {
			return err
		}
		if begin, err := anew(asked); err != nil || !begin {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE ? SET id = ?, filter = ?, rate = ?,
			after_pk = NULL, sent = 0, bad = 0, total = NULL, error = '',
			asked_at = `+clock+", started_at = NULL, updated_at = "+clock+`,
			finished_at = NULL, owner = NULL, expires_at = NULL WHERE queue = ? AND model = ?`,
			table, b.ID, b.Filter, b.Rate, b.Queue, b.Model); err != nil {
			return err
		}
		if known, err = r.readBackfills(ctx, tx, " WHERE queue = ? AND model = ?", b.Queue,
			b.Model); err == nil {
			now = known[0]
		}
		return err
	})
	if err != nil {
		return now, fmt.Errorf("ask for a backfill of %s for %s: %w", b.Model, b.Queue, err)
	}
	return now, nil
}

// Backfills returns those that are known, also those that are over, by queue and model, and the
// time by the database's clock.
func (r *Registry) Backfills(ctx context.Context) (all []Backfill, now time.Time, err error) {
	if now, err = r.Now(ctx); err == nil {
		all, err = r.readBackfills(ctx, r.DB(), " WHERE id <> '' ORDER BY queue, model")
	}
	if err != nil {
		return nil, now, fmt.Errorf("read the backfills: %w", err)
	}
	return all, now, nil
}

// Backfill returns the one of a model for a queue; found is false where there is none.
func (r *Registry) Backfill(
	ctx context.Context, queue, model string,
) (b Backfill, found bool, err error) {
	all, err := r.readBackfills(ctx, r.DB(), " WHERE id <> '' AND queue = ? AND model = ?", queue,
		model)
	if err != nil {
		return b, false, fmt.Errorf("read the backfill of %s for %s: %w", model, queue, err)
	}
	if len(all) == 0 {
		return b, false, nil
	}
	return all[0], true, nil
}

func (r *Registry) readBackfills(
	ctx context.Context, tx bun.IDB, condition string, args ...any,
) (all []Backfill, err error) {
	micros := r.Dialect().Micros
	rows, err := tx.QueryContext(ctx,
		"SELECT queue, model, id, filter, rate, after_pk, sent, bad, total, error, "+
			micros("asked_at")+", "+micros("started_at")+", "+micros("updated_at")+", "+
			micros("finished_at")+
			", owner, "+micros("expires_at")+" FROM ?"+
			condition, append([]any{r.Table("outbox_backfills")}, args...)...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	for rows.Next() {
		var b Backfill
		var after, owner sql.NullString
		var total sql.NullInt64
		err := rows.Scan(&b.Queue, &b.Model, &b.ID, &b.Filter, &b.Rate, &after, &b.Sent, &b.Bad,
			&total, &b.Error,
			timeInto(&b.Asked), timeInto(&b.Started), timeInto(&b.Updated), timeInto(&b.Finished), &owner,
			timeInto(&b.Expires))
		if err != nil {
			return nil, err
		}
		if after.Valid {
			b.After = json.RawMessage(after.String)
		}
		if b.Total = -1; total.Valid {
			b.Total = total.Int64
		}
		b.Owner = owner.String
		all = append(all, b)
	}
	return all, rows.Err()
}

// timeInto scans microseconds; null is the zero time.
func timeInto(t *time.Time) sql.Scanner { return (*scannedTime)(t) }

type scannedTime time.Time

func (t *scannedTime) Scan(value any) error {
	var micros sql.NullInt64
	if err := micros.Scan(value); err != nil {
		return err
	}
	if *t = (scannedTime{}); micros.Valid {
		*t = scannedTime(time.UnixMicro(micros.Int64).UTC())
	}
	return nil
}
