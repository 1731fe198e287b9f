package db

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// BatchLimits say how a transaction is bounded that the service's own code may take part in.
type BatchLimits struct {
	Options *sql.TxOptions
	// Thinking is how long that code may say nothing to the database, beyond what cqrsync may.
	Thinking time.Duration
	// Brief waits for no lock for longer than a moment: who holds them is known, and everything
	// else shall go on.
	Brief bool
}

// briefLock is how long a Brief transaction waits for a lock. MariaDB counts in seconds; with none
// at all it fails to skip what others are about to insert (10.11: error 1180).
func (postgresSessions) briefLock() time.Duration { return 100 * time.Millisecond }
func (mariadbSessions) briefLock() time.Duration  { return time.Second }
func (sqliteSessions) briefLock() time.Duration   { return time.Second }

// BriefTries is how often a Brief transaction may wait for a lock before that adds up to what
// others notice.
func (d *Database) BriefTries() int {
	return int(max(2*time.Second, 4*d.sessions.briefLock()) / d.sessions.briefLock())
}

// InBatch runs fn in a transaction that is bounded as InTx's are, of a type that the service's code
// knows. A statement that waits for a lock for too long fails; of what it waited for the
// LockedError tells, where fn returns that failure.
func (d *Database) InBatch(
	ctx context.Context, l BatchLimits, fn func(ctx context.Context, tx bun.Tx) error,
) error {
	b := Bounds{Idle: d.bounds.Idle + l.Thinking, Lock: d.bounds.Lock}
	if l.Brief {
		b.Lock = min(b.Lock, d.sessions.briefLock())
	}
	var w *waitWatch
	err := d.sessions.inBatch(ctx, d.bun, b, l,
		func(ctx context.Context, tx bun.Tx, session int64) error {
			w = d.watchWaits(ctx, b, session)
			defer w.end()
			return fn(ctx, tx)
		})
	if w != nil && LockTimedOut(err) {
		return &LockedError{Holders: w.seen, Err: err}
	}
	return err
}

// waitWatch checks now and then whether a session waits for another one's lock: afterwards nobody
// could tell whose.
type waitWatch struct {
	cancel context.CancelFunc
	ended  chan struct{}
	seen   string // who was waited for last
}

func (d *Database) watchWaits(ctx context.Context, b Bounds, session int64) *waitWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &waitWatch{cancel: cancel, ended: make(chan struct{})}
	query := d.sessions.blockers(session)
	if query == "" {
		close(w.ended)
		return w
	}
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(b.Lock / 2)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			if pids, holders := d.lockHolders(ctx, query); holders != "" {
				w.seen = holders
				d.waits.say(pids, holders)
			}
		}
	}()
	return w
}

func (w *waitWatch) end() {
	w.cancel()
	<-w.ended
}

// inBatch sets the bounds with the question for the session, in one round trip.
func (postgresSessions) inBatch(
	ctx context.Context, db *bun.DB, b Bounds, l BatchLimits,
	fn func(ctx context.Context, tx bun.Tx, session int64) error,
) error {
	return db.RunInTx(ctx, l.Options, func(ctx context.Context, tx bun.Tx) error {
		var session int64
		var idle, lock string
		err := tx.QueryRowContext(ctx, `SELECT pg_backend_pid(),
			set_config('idle_in_transaction_session_timeout', ?, true),
			set_config('lock_timeout', ?, true)`,
			fmt.Sprint(b.Idle.Milliseconds()), fmt.Sprint(b.Lock.Milliseconds())).
			Scan(&session, &idle, &lock)
		if err != nil {
			return err
		}
		return fn(ctx, tx, session)
	})
}

// inBatch has no bounds of its own; see inTx.
func (sqliteSessions) inBatch(
	ctx context.Context, db *bun.DB, _ Bounds, l BatchLimits,
	fn func(ctx context.Context, tx bun.Tx, session int64) error,
) error {
	return db.RunInTx(ctx, l.Options, func(ctx context.Context, tx bun.Tx) error {
		return fn(ctx, tx, 0)
	})
}

func (mariadbSessions) inBatch(
	ctx context.Context, db *bun.DB, b Bounds, l BatchLimits,
	fn func(ctx context.Context, tx bun.Tx, session int64) error,
) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	var session int64
	err = execOn(ctx, conn, []string{sessionBounds(b)})
	if err == nil {
		err = conn.QueryRowContext(ctx, "SELECT connection_id()").Scan(&session)
	}
	if err == nil {
		err = conn.RunInTx(ctx, l.Options, func(ctx context.Context, tx bun.Tx) error {
			return fn(ctx, tx, session)
		})
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), maxLockWait)
	defer cancel()
	return giveBack(ending, conn, nil, err)
}

// blockers are those whom a session waits for, with the columns of holders.
func (postgresSessions) blockers(session int64) string {
	return fmt.Sprintf(`SELECT DISTINCT p.pid, `+postgresHolder+`
		FROM unnest(pg_blocking_pids(%d)) AS p(pid) LEFT JOIN pg_stat_activity AS b ON b.pid = p.pid
		ORDER BY 1 LIMIT 5`, session)
}

func (mariadbSessions) blockers(session int64) string {
	return fmt.Sprintf(`SELECT `+mysqlHolder+` FROM information_schema.innodb_lock_waits AS w
			JOIN information_schema.innodb_trx AS t ON t.trx_id = w.blocking_trx_id
			JOIN information_schema.innodb_trx AS r ON r.trx_id = w.requesting_trx_id `+mysqlProcess+`
		WHERE r.trx_mysql_thread_id = %d LIMIT 5`, session)
}

// blockers is empty: SQLite knows of no sessions.
func (sqliteSessions) blockers(int64) string { return "" }
