package replica

import (
	"errors"
	"strings"
	"time"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/db"
)

// A handler answers with nil, Retry, Discard, Permanent or any other error, which means: again, by
// the retry policy.

// Permanent marks an error that no retry can cure: the message becomes a dead letter at once, with
// err as the reason. nil stays nil.
func Permanent(err error) error { return answer(answerPermanent, 0, err) }

// Retry asks for the message again after a time of the handler's choosing, as often as the handler
// likes: it does not count as an attempt. nil stays nil.
func Retry(after time.Duration, err error) error { return answer(answerRetry, max(after, 0), err) }

// Discard says that the message is to have no effect: what the handler wrote is rolled back, and
// the key's revision moves on. err is logged. nil stays nil.
func Discard(err error) error { return answer(answerDiscard, 0, err) }

type answerKind int

const (
	answerPermanent answerKind = iota
	answerRetry
	answerDiscard
)

type answerError struct {
	kind   answerKind
	after  time.Duration
	reason Reason // of a dead letter
	err    error
}

func answer(kind answerKind, after time.Duration, err error) error {
	if err == nil {
		return nil
	}
	return &answerError{kind: kind, after: after, reason: Unfit, err: err}
}

func (e *answerError) Error() string { return e.err.Error() }
func (e *answerError) Unwrap() error { return e.err }

// refused is a permanent error of a reason.
func refused(reason Reason, err error) error {
	return &answerError{kind: answerPermanent, reason: reason, err: err}
}

// discards says that a handler wants the message to have no effect.
func discards(err error) bool {
	var a *answerError
	return errors.As(err, &a) && a.kind == answerDiscard
}

// retryAfter is the pause that a handler asked for.
func retryAfter(err error) (after time.Duration, asked bool) {
	var a *answerError
	if errors.As(err, &a) && a.kind == answerRetry {
		return a.after, true
	}
	return 0, false
}

// reasonOf is why a message with a permanent error is a dead letter.
func reasonOf(err error) Reason {
	var a *answerError
	var unreadable *envelope.DecodeError
	switch {
	case errors.As(err, &a):
		return a.reason
	case errors.As(err, &unreadable):
		return Unreadable
	default:
		return Unfit
	}
}

// orphanError is a foreign key that points to a row that is not there yet.
type orphanError struct {
	parent db.Key // zero where no registered model is mirrored into the parent's table
	err    error
}

func (e *orphanError) Error() string { return e.err.Error() }
func (e *orphanError) Unwrap() error { return e.err }

// outageError is trouble with the transaction itself, whatever its text says.
type outageError struct{ err error }

func (e *outageError) Error() string { return e.err.Error() }
func (e *outageError) Unwrap() error { return e.err }

// retryClass is how an error is met.
type retryClass int

const (
	// outage: the database is in trouble, or another transaction was in the way. No message is to
	// blame: everything waits and is tried again. An error of an unknown kind counts as one,
	// because it must not cost a message.
	outage retryClass = iota
	// endless: the message waits, however long. Its table is not as the struct says, and somebody
	// has to migrate it.
	endless
	// limited: the message waits, as often as its policy allows. A unique value that another row
	// still holds, say: that row's own message may be on its way, or may never come.
	limited
	// none: a dead letter at once.
	none
	// busy: another transaction holds a lock that the message needs. It waits, however long, and
	// the others go on.
	busy
	// early: the message before it has not come yet. It waits for that, as long as
	// Config.WaitForMissing says.
	early
)

func classOf(err error) retryClass {
	var a *answerError
	var unreadable *envelope.DecodeError
	var orphan *orphanError
	var broken *outageError
	var code *codeError
	var folded *foldedKeyError
	switch {
	case errors.As(err, &folded):
		return endless
	case errors.As(err, &broken):
		return outage
	case errors.As(err, &code):
		return classOfHandlers(code.err)
	case errors.As(err, &a) && a.kind == answerPermanent, errors.As(err, &unreadable):
		return none
	case errors.As(err, &a), errors.As(err, &orphan):
		return limited
	}
	if state := db.SQLState(err); state != "" {
		return classOfState(state)
	}
	if code := db.SQLiteCode(err); code != 0 {
		return classOfSQLite(code)
	}
	return outage
}

// classOfHandlers is classOf for an error of the service's own code, after which the transaction
// still works: what nobody knows is the message's affair.
func classOfHandlers(err error) retryClass {
	if p := classOf(err); p != outage || db.SQLState(err) != "" || db.SQLiteCode(err) != 0 {
		return p
	}
	return limited
}

// classOfState knows PostgreSQL's classes of errors, and what package store makes of MariaDB's.
func classOfState(state string) retryClass {
	switch state {
	case "23503", "23001", "23505", "23P01": // foreign key, unique, exclusion
		return limited
	case "57014": // canceled, because it took too long: the half of it may not
		return limited
	case "25006", "55P03": // read only; a lock was not to be had
		return outage
	}
	switch state[:2] {
	case "08", "28", "3D", "40", "53", "57", "58", "XX", "F0":
		// Connection, login, conflict, resources, shutdown, files, internal.
		return outage
	case "42": // no such table or column, no right to it
		return endless
	case "22", "23", "54": // the value does not fit the column
		return none
	default:
		return limited
	}
}

// classOfSQLite knows SQLite's extended result codes, as modernc.org/sqlite reports them.
func classOfSQLite(code int) retryClass {
	const (
		tooBig, mismatch          = 18, 20
		check, notNull, datatype  = 275, 1299, 3091
		generic, constraint, auth = 1, 19, 23
	)
	switch code {
	case tooBig, mismatch, check, notNull, datatype:
		return none
	}
	switch code & 0xff {
	case generic, auth:
		return endless // no such table or column
	case constraint:
		return limited
	default:
		return outage // busy, locked, read only, full, an I/O error, interrupted
	}
}

// isForeignKey says that the error is a row that another one needs, or a row that needs another
// one.
func isForeignKey(err error) bool {
	const sqliteForeignKey = 787
	state := db.SQLState(err)
	return errors.Is(err, errStillMissing) || strings.HasPrefix(state, "23503") ||
		db.SQLiteCode(err) == sqliteForeignKey
}
