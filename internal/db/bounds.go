package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"time"

	"github.com/uptrace/bun"
)

// Bounds limit what a transaction of cqrsync's own can cost others. A process may be stopped, or
// lose its network, between any two statements, and the database would keep its locks for as long
// as the connection looks alive.
type Bounds struct {
	// Idle is how long the client may say nothing before the database ends the transaction: a
	// lease, as after that the others go on without that process anyway.
	Idle time.Duration
	// Lock is how long a statement waits for a lock. Whoever waits holds up others with what it has
	// locked already.
	Lock time.Duration
}

const (
	// DefaultLease is that of a relay (relay.Config.LeaseTTL), for those who are none.
	DefaultLease = 10 * time.Second
	maxLockWait  = 2 * time.Second
	// minIdle is the shortest time in which every database can tell, and no busy process is taken
	// for a stopped one.
	minIdle = time.Second
	minLock = 50 * time.Millisecond
)

// Exclusive are the bounds where all writers wait: behind the lock, and already behind who waits
// for it.
var Exclusive = Bounds{Idle: 3 * time.Second, Lock: 500 * time.Millisecond}

// Within returns the bounds of those whose lease is that long.
func Within(lease time.Duration) Bounds {
	return Bounds{Idle: max(lease, minIdle), Lock: min(max(lease/4, minLock), maxLockWait)}
}

// Bounds returns those of the database's transactions.
func (d *Database) Bounds() Bounds { return d.bounds }

// Limit bounds the database's transactions by a lease: how long they may stand still, and how long
// they wait for locks. said is told who is waited for when that takes long; nil writes it to slog's
// default. Call it before the database is used.
func (d *Database) Limit(lease time.Duration, said func(holders string)) {
	d.bounds, d.waits.said = Within(lease), said
}

// SayWaits has said told who is waited for when that takes long. Call it before the database is
// used.
func (d *Database) SayWaits(said func(holders string)) { d.waits.said = said }

// InTx runs fn in a transaction that neither stands still nor waits for a lock for longer than
// Limit allows, under the database's own isolation. Where a lock was not to be had in time the
// error is a LockedError.
func (d *Database) InTx(ctx context.Context, fn func(ctx context.Context, tx bun.IDB) error) error {
	return d.Watched(ctx, d.bounds, func() error {
		return d.sessions.inTx(ctx, d.bun, d.bounds, "", fn)
	})
}

// InBounds is InTx within other bounds, and under the isolation of LanesOptions. Every transaction
// of cqrsync's own is one of these, except where the bounds stand in the text of another statement,
// which saves a round trip.
func (d *Database) InBounds(
	ctx context.Context, b Bounds, fn func(ctx context.Context, tx bun.IDB) error,
) error {
	return d.Watched(ctx, b, func() error {
		return d.sessions.inTx(ctx, d.bun, b, readCommitted, fn)
	})
}

const readCommitted = "READ COMMITTED"

// SetLocal limits the PostgreSQL transaction it stands in.
func (b Bounds) SetLocal() string {
	return fmt.Sprintf("SET LOCAL idle_in_transaction_session_timeout = %d; ",
		b.Idle.Milliseconds()) + b.SetLockWait()
}

// SetLockWait limits the wait for locks only. In one text with a statement it is for that one, in
// the same round trip.
func (b Bounds) SetLockWait() string {
	return fmt.Sprintf("SET LOCAL lock_timeout = %d; ", b.Lock.Milliseconds())
}

// setAtOnce is SetLocal in one statement, which returns a row.
func (b Bounds) setAtOnce() string {
	return fmt.Sprintf("SELECT set_config('idle_in_transaction_session_timeout', '%d', TRUE), "+
		"set_config('lock_timeout', '%d', TRUE)",
		b.Idle.Milliseconds(), b.Lock.Milliseconds())
}

func (postgresSessions) inTx(
	ctx context.Context, db *bun.DB, b Bounds, _ string,
	fn func(ctx context.Context, tx bun.IDB) error,
) error {
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
		if _, err := tx.ExecContext(ctx, b.setAtOnce()); err != nil {
			return err
		}
		return fn(ctx, tx)
	})
}

// inTx has no bounds of its own: SQLite knows no session that could be ended, and waits as long as
// the connection's busy_timeout says (package database: ten seconds).
func (sqliteSessions) inTx(
	ctx context.Context, db *bun.DB, _ Bounds, _ string,
	fn func(ctx context.Context, tx bun.IDB) error,
) error {
	return db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error { return fn(ctx, tx) })
}

// inTx: the bounds belong to the session here, and the connection goes back to the service's pool,
// so they are taken back after the transaction; a connection for which that fails is closed. COMMIT
// is a statement like others, because database/sql's would wait for an answer for as long as the
// connection looks alive.
//
// Each is a statement of its own: a proxy that sends reads to other servers (MaxScale) must see the
// transaction begin.
func (m mariadbSessions) inTx(
	ctx context.Context, db *bun.DB, b Bounds, isolation string,
	fn func(ctx context.Context, tx bun.IDB) error,
) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	err = execOn(ctx, conn, m.begin(b, isolation))
	if err == nil {
		err = fn(ctx, conn)
	}
	end := "COMMIT"
	ending, cancel := ctx, func() {}
	if err != nil { // perhaps because ctx has ended
		end = "ROLLBACK"
		ending, cancel = context.WithTimeout(context.WithoutCancel(ctx), b.Lock)
	}
	defer cancel()
	return giveBack(ending, conn, execOn(ending, conn, []string{end}), err)
}

// giveBack returns a connection with its own bounds to the pool, or closes it: nobody may get it
// with ours. endErr is what ending the transaction came to, err what came before.
func giveBack(ctx context.Context, conn bun.Conn, endErr, err error) error {
	if endErr != nil || execOn(ctx, conn, []string{restoreBounds}) != nil {
		_ = conn.Raw(func(any) error { return driver.ErrBadConn })
	} else {
		endErr = conn.Close()
	}
	if err == nil {
		err = endErr
	}
	if errors.Is(err, driver.ErrBadConn) {
		err = fmt.Errorf("the connection is gone, or its server has become read-only: %w", err)
	}
	return err
}

func (mariadbSessions) begin(b Bounds, isolation string) []string {
	begin := []string{sessionBounds(b)}
	if isolation != "" {
		begin = append(begin, "SET TRANSACTION ISOLATION LEVEL "+isolation)
	}
	return append(begin, "START TRANSACTION")
}

// sessionBounds are rounded up to what the server counts in.
func sessionBounds(b Bounds) string {
	seconds := func(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
	return fmt.Sprintf(`SET @cqrsync_idle = @@SESSION.idle_transaction_timeout,
		@cqrsync_lock = @@SESSION.innodb_lock_wait_timeout, @cqrsync_table = @@SESSION.lock_wait_timeout,
		SESSION idle_transaction_timeout = %d, SESSION innodb_lock_wait_timeout = %d,
		SESSION lock_wait_timeout = %d`,
		seconds(b.Idle), seconds(b.Lock), seconds(b.Lock))
}

const restoreBounds = `SET SESSION idle_transaction_timeout = @cqrsync_idle,
	SESSION innodb_lock_wait_timeout = @cqrsync_lock,
	SESSION lock_wait_timeout = @cqrsync_table`

func execOn(ctx context.Context, conn bun.Conn, statements []string) error {
	for _, statement := range statements {
		if _, err := conn.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}
