package db

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// LockedError says that a lock was not to be had in time. Whoever holds it has not ended a
// transaction for long: it is stopped, it waits for a person, or it is large.
type LockedError struct {
	// Holders is who holds what was waited for, as far as the database tells.
	Holders string
	// Err is what the database answered.
	Err error
}

func (e *LockedError) Error() string {
	if e.Holders == "" {
		return e.Err.Error()
	}
	return e.Err.Error() + ": waited for " + e.Holders
}

func (e *LockedError) Unwrap() error { return e.Err }

// LockTimedOut says that the database gave up waiting for a lock. It names no transaction at fault,
// and the one that waited may have lost no more than the statement.
func LockTimedOut(err error) bool {
	const lockNotAvailable = "55P03"
	return SQLState(err) == lockNotAvailable || err != nil &&
		strings.Contains(err.Error(), "Error 1205 (")
}

// waits is who is told of long waits.
type waits struct {
	said func(holders string)

	mu     sync.Mutex
	before string
	at     time.Time
}

// repeatWait is how often the same holder is named.
const repeatWait = 30 * time.Second

// say names holders, unless those with these numbers were named a moment ago.
func (w *waits) say(pids, holders string) {
	w.mu.Lock()
	repeated := pids == w.before && time.Since(w.at) < repeatWait
	if !repeated {
		w.before, w.at = pids, time.Now()
	}
	w.mu.Unlock()
	switch {
	case repeated:
	case w.said != nil:
		w.said(holders)
	default:
		slog.Default().Warn("waiting for another transaction: end it if it does not end by itself",
			"holders", holders)
	}
}

// SayWait tells that something waits for holders, unless that was told a moment ago.
func (d *Database) SayWait(what, holders string) { d.waits.say(what, holders) }

// HoldersOf returns what an error that passes is about.
func HoldersOf(err error) string {
	if locked := (*LockedError)(nil); errors.As(err, &locked) && locked.Holders != "" {
		return locked.Holders
	}
	return UnknownHolder
}

// UnknownHolder is what is waited for where the database does not tell.
const UnknownHolder = "a transaction that takes long"

// MinPause and MaxPause bound the pauses between two tries to lock out all others, in which
// everybody goes on: whoever waits for such a lock makes everybody wait who comes after.
const MinPause, MaxPause = 250 * time.Millisecond, 5 * time.Second

// Rest waits for a while.
func Rest(ctx context.Context, pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Watched runs fn, which waits for locks as long as b says, and finds out who holds them when that
// takes more than half as long: afterwards nobody could tell.
func (d *Database) Watched(ctx context.Context, b Bounds, fn func() error) error {
	if during, _ := d.sessions.holders(d.names); during == "" {
		return fn()
	}
	asking, cancel := context.WithCancel(ctx)
	defer cancel()
	var holders string
	ended := make(chan struct{})
	timer := time.AfterFunc(b.Lock/2, func() {
		defer close(ended)
		during, _ := d.sessions.holders(d.names)
		var pids string
		if pids, holders = d.lockHolders(asking, during); holders != "" {
			d.waits.say(pids, holders)
		}
	})
	err := fn()
	if !timer.Stop() {
		if !LockTimedOut(err) {
			cancel()
		}
		<-ended
	}
	if !LockTimedOut(err) || errors.As(err, new(*LockedError)) {
		return err
	}
	if holders == "" { // the question came too late, on a busy machine
		_, afterwards := d.sessions.holders(d.names)
		var pids string
		if pids, holders = d.lockHolders(ctx, afterwards); holders != "" {
			d.waits.say(pids, holders)
		}
	}
	return &LockedError{Holders: holders, Err: err}
}

// holdersTimeout is short: whoever asks has waited for long already.
const holdersTimeout = time.Second

// lockHolders describes those that a query of holders finds. pids tells who they are. Both are
// empty where there are none, and where the user may not see them.
func (d *Database) lockHolders(ctx context.Context, query string) (pids, holders string) {
	ctx, cancel := context.WithTimeout(ctx, holdersTimeout)
	defer cancel()
	rows, err := d.bun.QueryContext(ctx, query)
	if err != nil {
		return "", ""
	}
	defer func() { _ = rows.Close() }() // a read error surfaces in rows.Err
	var who, described []string
	for rows.Next() {
		var pid int64
		var name, state string
		var seconds float64
		if rows.Scan(&pid, &name, &state, &seconds) != nil {
			return "", ""
		}
		who = append(who, fmt.Sprint(pid))
		described = append(described, describeHolder(pid, name, state,
			time.Duration(seconds*float64(time.Second))))
	}
	if rows.Err() != nil {
		return "", ""
	}
	return strings.Join(who, ","), strings.Join(described, "; ")
}

func describeHolder(pid int64, name, state string, since time.Duration) string {
	if pid == 0 {
		return "a prepared transaction (see pg_prepared_xacts)"
	}
	text := fmt.Sprintf("database process %d", pid)
	if name != "" {
		text += " of " + name
	}
	if state != "" {
		text += fmt.Sprintf(", %s for %s", state, since.Round(100*time.Millisecond))
	}
	return text
}

const postgresHolder = `coalesce(concat_ws(' at ',
		coalesce(nullif(b.application_name, ''), b.usename), host(b.client_addr)), ''),
	coalesce(b.state, ''), coalesce(extract(epoch FROM clock_timestamp() - b.state_change), 0)::float8`

// holders are, during a wait, those who block whoever waits in a statement that names one of
// cqrsync's tables; afterwards, those who have locked one for longer than anybody waits. A user
// sees of others' sessions no more than their number unless it may read statistics
// (pg_read_all_stats).
func (postgresSessions) holders(names Names) (during, afterwards string) {
	const columns = postgresHolder
	return `
		SELECT DISTINCT p.pid, ` + columns + `
		FROM pg_stat_activity AS w CROSS JOIN LATERAL unnest(pg_blocking_pids(w.pid)) AS p(pid)
			LEFT JOIN pg_stat_activity AS b ON b.pid = p.pid
		WHERE w.wait_event_type = 'Lock' AND w.datname = current_database()
			AND w.query ~ '` + ownTables(names) + `'
		ORDER BY 1 LIMIT 5`, `
		SELECT DISTINCT coalesce(l.pid, 0), ` + columns + `
		FROM pg_locks AS l JOIN pg_class AS c ON c.oid = l.relation
			LEFT JOIN pg_stat_activity AS b ON b.pid = l.pid
		WHERE l.granted AND l.locktype = 'relation' AND c.relname ~ '^` + ownTables(names) + `'
			AND l.pid IS DISTINCT FROM pg_backend_pid()
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND coalesce(clock_timestamp() - b.xact_start
				> interval '` + fmt.Sprint(Exclusive.Lock.Milliseconds()) + ` ms', TRUE)
		ORDER BY 1 LIMIT 5`
}

// ownTables is a regular expression for the names of cqrsync's tables.
func ownTables(names Names) string { return names.Prefix + "(outbox|replica)_" }

const (
	mysqlHolder = "t.trx_mysql_thread_id AS pid, coalesce(concat(p.user, ' at ', p.host), '') AS " +
		"name, lower(coalesce(p.command, '')) AS state, coalesce(p.time, 0) AS seconds"
	mysqlProcess = "LEFT JOIN information_schema.processlist AS p ON p.id = t.trx_mysql_thread_id"
)

// holders names the oldest transactions, too: InnoDB cannot tell who holds the lock of a table. It
// takes the privilege PROCESS.
func (mariadbSessions) holders(names Names) (during, afterwards string) {
	const columns, process = mysqlHolder, mysqlProcess
	idle := "p.db = database() AND p.id <> connection_id() AND p.command = 'Sleep'"
	return `
		SELECT ` + columns + ` FROM information_schema.innodb_lock_waits AS w
			JOIN information_schema.innodb_trx AS t ON t.trx_id = w.blocking_trx_id
			JOIN information_schema.innodb_trx AS r ON r.trx_id = w.requesting_trx_id ` + process + `
		WHERE r.trx_query REGEXP '` + ownTables(names) + `'
		UNION
		SELECT ` + columns + ` FROM information_schema.innodb_trx AS t ` + process + `
		WHERE ` + idle + ` AND EXISTS (
			SELECT 1 FROM information_schema.processlist AS w
			WHERE w.state LIKE 'Waiting for table metadata lock%'
				AND w.info REGEXP '` + ownTables(names) + `')
		LIMIT 5`, `
		SELECT ` + columns + ` FROM information_schema.innodb_trx AS t ` + process + `
		WHERE ` + idle + ` ORDER BY t.trx_started LIMIT 5`
}

// holders is empty: SQLite knows of no sessions.
func (sqliteSessions) holders(Names) (during, afterwards string) { return "", "" }
