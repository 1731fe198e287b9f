package store

import (
	"errors"
	"regexp"
)

// SQLState returns the SQLSTATE of a database error, empty if there is none. It asks the drivers without importing
// one: pgx and lib/pq by the first method, bun's pgdriver by the second.
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
	return ""
}

// SQLiteCode returns the extended result code of an SQLite error, as modernc.org/sqlite reports it, or 0.
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

// mysqlConflict is how go-sql-driver/mysql begins its message, which is all that can be known of its error without
// importing it: a record changed since the snapshot (innodb_snapshot_isolation), a lock that was not to be had in time,
// a deadlock.
var mysqlConflict = regexp.MustCompile(`\bError (1020|1205|1213) \(`)

// Conflicted says that the database gave a transaction up because of another one: a serialization failure, a deadlock,
// or an SQLite file that stayed locked. The same transaction, run again from the start, may pass.
func Conflicted(err error) bool {
	const (
		serializationFailure, deadlock = "40001", "40P01"
		busy, locked                   = 5, 6
	)
	if err != nil && mysqlConflict.MatchString(err.Error()) {
		return true
	}
	state, code := SQLState(err), SQLiteCode(err)&0xff
	return state == serializationFailure || state == deadlock || code == busy || code == locked
}
