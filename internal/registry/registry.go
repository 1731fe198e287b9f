// Package registry is what a master knows of its replicas: who has reported, when, and what.
//
// Any relay of the master may write here; whatever two of them do at once ends as if one had done
// it after the other. Times are by the database's clock.
package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/uptrace/bun"

	"github.com/cqrsync/cqrsync/internal/db"
)

// Registry holds the replicas of one master. It is safe for concurrent use.
type Registry struct{ *db.Database }

// New returns the registry of a database with the outbox's tables.
func New(d *db.Database) *Registry { return &Registry{d} }

// Report is what one process of a replica says of itself.
type Report struct {
	Queue, Instance string
	// Models are those that the replica takes from this master.
	Models []string
	// Pace is how often the process reports.
	Pace time.Duration
	// Text is the report as it came, in JSON.
	Text []byte
	// Echo is the newest heartbeat that the replica has worked off; nil for none.
	Echo *Echo
}

// Echo is a heartbeat that came back.
type Echo struct {
	// Sent is when the heartbeat went out. What was committed before Through went out before it.
	Sent, Through time.Time
	// Held is how long ago the replica worked the heartbeat off, by the replica's own clock.
	Held time.Duration
}

// Replica is a replica as the master knows it.
type Replica struct {
	Queue  string
	Models []string
	// First is when the first report came, Reported when the last one did.
	First, Reported time.Time
	// Beat is when the last heartbeat went out; zero for never.
	Beat time.Time
	// Echoed is when the newest heartbeat went out that came back. All that was committed before
	// Through is with the replica, and was Lag late. They are zero before a heartbeat came back.
	Echoed, Through time.Time
	Lag             time.Duration
	// Vanished is when the broker was found without the queue last, so without what had been in it;
	// zero for never.
	Vanished time.Time
	// Instances are its processes, newest report first.
	Instances []Instance
}

// Instance is a process of a replica.
type Instance struct {
	Name     string
	Pace     time.Duration
	Reported time.Time
	Report   json.RawMessage
}

const (
	// forgottenAfter is how long a process is listed that reports no more.
	forgottenAfter = time.Hour
	// maxReplicas and maxInstances bound what strangers on the broker can fill the tables with.
	maxReplicas  = 10_000
	maxInstances = 1_000
)

// FullError says that there is no room for a replica, or for a further process of one.
type FullError struct{ What string }

func (e *FullError) Error() string {
	return fmt.Sprintf("the registry is full: %s; end those that are gone with relay replicas "+
		"forget", e.What)
}

// Note writes a report down. isNew says that the queue was not known, or not with all of its
// models. A replica of several processes takes the models of all of them.
func (r *Registry) Note(ctx context.Context, report Report) (isNew bool, err error) {
	// Each statement must see what was committed before it (READ COMMITTED): under the snapshot of
	// its first one, MariaDB would read the models that were there before another report.
	err = r.InBounds(ctx, db.Within(db.DefaultLease), func(ctx context.Context, tx bun.IDB) error {
		isNew, err = r.note(ctx, tx, report)
		return err
	})
	if err != nil {
		return false, fmt.Errorf("note a report of the replica %q: %w", report.Queue, err)
	}
	return isNew, nil
}

func (r *Registry) note(ctx context.Context, tx bun.IDB, report Report) (isNew bool, err error) {
	known, err := r.lock(ctx, tx, report.Queue)
	if err != nil {
		return false, err
	}
	models := slices.Clone(report.Models)
	if known != nil {
		models = append(models, known...)
	}
	slices.Sort(models)
	models = slices.Compact(models)
	if isNew = len(models) > len(known); isNew {
		text, err := json.Marshal(models)
		if err != nil {
			return false, err
		}
		if _, err := tx.ExecContext(ctx, "UPDATE ? SET models = ? WHERE queue = ?",
			r.Table("outbox_replicas"), string(text), report.Queue); err != nil {
			return false, err
		}
	}
	if err := r.noteEcho(ctx, tx, report); err != nil {
		return false, err
	}
	return isNew, r.noteInstance(ctx, tx, report)
}

// lock returns the models of a queue, nil where it is new, and keeps its row locked: so two reports
// of one replica come one after the other.
func (r *Registry) lock(
	ctx context.Context, tx bun.IDB, queue string,
) (models []string, err error) {
	now := r.Dialect().Now()
	known, err := r.count(ctx, tx, "outbox_replicas", "queue <> ?", queue)
	if err != nil {
		return nil, err
	}
	if known >= maxReplicas {
		return nil, &FullError{fmt.Sprintf("it has %d replicas", known)}
	}
	_, err = tx.ExecContext(ctx,
		"INSERT INTO ? (queue, models, first_at, reported_at) VALUES (?, '[]', "+
			now+", "+now+")"+r.Upsert("queue", "reported_at"), r.Table("outbox_replicas"), queue)
	if err != nil {
		return nil, err
	}
	var text string
	err = tx.QueryRowContext(ctx, "SELECT models FROM ? WHERE queue = ?",
		r.Table("outbox_replicas"), queue).
		Scan(&text)
	if err == nil {
		err = json.Unmarshal([]byte(text), &models)
	}
	return models, err
}

// noteEcho keeps the newest heartbeat that came back. Processes of a replica report in any order.
func (r *Registry) noteEcho(ctx context.Context, tx bun.IDB, report Report) error {
	e := report.Echo
	if e == nil {
		return nil
	}
	now := r.Dialect().Micros(r.Dialect().Now())
	var micros int64
	if err := tx.QueryRowContext(ctx, "SELECT "+now).Scan(&micros); err != nil {
		return err
	}
	// From when it was true at the master to when the replica had it. The way back counts, too.
	lag := max(time.Duration(micros-e.Through.UnixMicro())*time.Microsecond-e.Held, 0)
	_, err := tx.ExecContext(ctx, `UPDATE ? SET echoed_at = ?, through_at = ?, lag = ?
		WHERE queue = ? AND (echoed_at IS NULL OR echoed_at <= ?)`, r.Table("outbox_replicas"),
		r.Dialect().Time(e.Sent), r.Dialect().Time(e.Through), lag.Microseconds(), report.Queue,
		r.Dialect().Time(e.Sent))
	return err
}

func (r *Registry) noteInstance(ctx context.Context, tx bun.IDB, report Report) error {
	now, table := r.Dialect().Now(), r.Table("outbox_replica_instances")
	if _, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE queue = ? AND reported_at < "+
		r.Dialect().After(now, -forgottenAfter), table, report.Queue); err != nil {
		return err
	}
	others, err := r.count(ctx, tx, "outbox_replica_instances", "queue = ? AND instance <> ?",
		report.Queue, report.Instance)
	if err != nil {
		return err
	}
	if others >= maxInstances {
		return &FullError{fmt.Sprintf("the replica %q has %d processes", report.Queue, others)}
	}
	_, err = tx.ExecContext(ctx,
		"INSERT INTO ? (queue, instance, pace, reported_at, report) VALUES (?, ?, ?, "+
			now+", ?)"+r.Upsert("queue, instance", "pace", "reported_at", "report"), table,
		report.Queue, report.Instance, report.Pace.Microseconds(), string(report.Text))
	return err
}

func (r *Registry) count(
	ctx context.Context, tx bun.IDB, table, condition string, args ...any,
) (n int, err error) {
	err = tx.QueryRowContext(ctx, "SELECT count(*) FROM ? WHERE "+condition,
		append([]any{r.Table(table)}, args...)...).Scan(&n)
	return n, err
}

// Beat says whether the caller is to send the next heartbeat to a queue: one relay in each pace is.
func (r *Registry) Beat(
	ctx context.Context, queue string, pace time.Duration,
) (mine bool, err error) {
	now := r.Dialect().Now()
	result, err := r.DB().ExecContext(ctx, "UPDATE ? SET beat_at = "+now+
		" WHERE queue = ? AND (beat_at IS NULL OR beat_at <= "+r.Dialect().After(now, -pace)+")",
		r.Table("outbox_replicas"), queue)
	if err != nil {
		return false, fmt.Errorf("take the next heartbeat of %q: %w", queue, err)
	}
	n, err := result.RowsAffected()
	return n > 0, err
}

// NoteVanished notes that the broker had no queue for a replica just now. Backfills begin anew.
func (r *Registry) NoteVanished(ctx context.Context, queue string) error {
	err := r.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		_, err := tx.ExecContext(ctx, "UPDATE ? SET vanished_at = "+r.Dialect().Now()+
			" WHERE queue = ?",
			r.Table("outbox_replicas"), queue)
		if err != nil {
			return err
		}
		return r.restartBackfills(ctx, tx, queue)
	})
	if err != nil {
		return fmt.Errorf("note that the queue %q has vanished: %w", queue, err)
	}
	return nil
}

// Forget ends what is known of a replica, and says whether anything was. The queue on the broker
// stays. A replica that lives on is known again with its next report.
func (r *Registry) Forget(ctx context.Context, queue string) (known bool, err error) {
	err = r.InTx(ctx, func(ctx context.Context, tx bun.IDB) error {
		result, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE queue = ?",
			r.Table("outbox_replicas"), queue)
		if err != nil {
			return err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return err
		}
		known = n > 0
		for _, table := range []string{"outbox_replica_instances", "outbox_backfills",
			"outbox_verifications"} {
			if _, err := tx.ExecContext(ctx, "DELETE FROM ? WHERE queue = ?", r.Table(table),
				queue); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("forget the replica %q: %w", queue, err)
	}
	return known, nil
}
