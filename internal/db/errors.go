package db

import (
	"cmp"
	"context"
	"database/sql/driver"
	"errors"
	"regexp"
)

// SQLState returns the SQLSTATE of a database error, empty if there is none. It asks the drivers
// without importing one: pgx and lib/pq by the first method, bun's pgdriver by the second,
// MariaDB's by its text.
func SQLState(err error) string {
	var byMethod interface {
		error
		SQLState() string
	}
	if errors.As(err, &byMethod) {
		return byMethod.SQLState()
	}
	var byField interface {
		error
		Field(k byte) string
	}
	if errors.As(err, &byField) {
		return byField.Field('C')
	}
	if err == nil {
		return ""
	}
	if found := mysqlError.FindStringSubmatch(err.Error()); found != nil {
		return cmp.Or(mysqlStates[found[1]], found[2])
	}
	return ""
}

// SQLiteCode returns the extended result code of an SQLite error, as modernc.org/sqlite reports it,
// or 0.
func SQLiteCode(err error) int {
	var sqlite interface {
		error
		Code() int
	}
	if errors.As(err, &sqlite) {
		return sqlite.Code()
	}
	return 0
}

// mysqlError is how go-sql-driver/mysql begins its message, which is all that can be known of its
// error without importing it.
var mysqlError = regexp.MustCompile(`\bError (\d{4}) \((\w{5})\): `)

// mysqlStates are the SQLSTATEs of PostgreSQL for errors that MariaDB gives one which says less.
var mysqlStates = map[string]string{
	// a record changed since the snapshot (innodb_snapshot_isolation)
	"1020": "40001",
	// a lock was not to be had in time
	"1205": "40001",
	"1062": "23505", // duplicate
	// a required column without a value
	"1364": "23502",
	"1216": "23503", "1217": "23503", "1451": "23503", "1452": "23503", // foreign keys
}

// ConflictError is an error of cqrsync's own after which the same transaction, run again from the
// start, may pass.
type ConflictError string

func (c ConflictError) Error() string { return string(c) }

// Conflicted says that the database gave a transaction up because of another one: a serialization
// failure, a deadlock, or an SQLite file that stayed locked. The same transaction, run again from
// the start, may pass.
func Conflicted(err error) bool {
	const (
		serializationFailure, deadlock = "40001", "40P01"
		busy, locked                   = 5, 6
	)
	state, code := SQLState(err), SQLiteCode(err)&0xff
	return errors.As(err, new(ConflictError)) || state == serializationFailure ||
		state == deadlock ||
		code == busy || code == locked
}

// TakesNoWrites says that a write failed because the database takes none.
func (d *Database) TakesNoWrites(ctx context.Context, err error) bool {
	const readOnlyTransaction, sqliteReadOnly = "25006", 8
	switch {
	case err == nil:
		return false
	case SQLState(err) == readOnlyTransaction, SQLiteCode(err)&0xff == sqliteReadOnly:
		return true
	case d.sessions.readOnly() == "":
		return false
	}
	if found := mysqlError.FindStringSubmatch(err.Error()); found != nil {
		return found[1] == "1290" || found[1] == "1792" || found[1] == "1836"
	}
	// With rejectReadOnly the driver says no more than that the connection is bad, so that it is
	// made anew.
	var readOnly bool
	return errors.Is(err, driver.ErrBadConn) &&
		d.bun.QueryRowContext(ctx, d.sessions.readOnly()).Scan(&readOnly) == nil && readOnly
}

// Passing says that trying again may help whoever waits for a lock that excludes all others.
func Passing(err error) bool {
	const idleTooLong = "25P03" // this process was stopped, or its network was away
	return Conflicted(err) || LockTimedOut(err) || SQLState(err) == idleTooLong
}
