package replica

import (
	"errors"
	"strings"

	"github.com/cqrsync/cqrsync/envelope"
	"github.com/cqrsync/cqrsync/internal/store"
)

// Permanent marks an error that no retry can cure: the message is parked at once, with err as the reason. A handler
// returns it; nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// patience is how an error is met.
type patience int

const (
	// endless: tried again, here and then by the broker, until it works. What nobody knows is met so.
	endless patience = iota
	// limited: tried again here, then parked. A unique value that another row still holds, say: that row's own message
	// may be on its way, or may never come.
	limited
	// none: parked at once.
	none
)

func patienceWith(err error) patience {
	var permanent *permanentError
	var unreadable *envelope.DecodeError
	if errors.As(err, &permanent) || errors.As(err, &unreadable) {
		return none
	}
	if state := store.SQLState(err); state != "" {
		return patienceWithState(state)
	}
	if code := store.SQLiteCode(err); code != 0 {
		return patienceWithSQLite(code)
	}
	return endless
}

func patienceWithState(state string) patience {
	switch {
	case state == "23503", state == "23001": // a foreign key: the other row's message has not been applied yet
		return endless
	case state == "23505", state == "23P01": // unique, exclusion
		return limited
	case strings.HasPrefix(state, "22"), strings.HasPrefix(state, "23"): // the value does not fit the column
		return none
	default:
		return endless
	}
}

// patienceWithSQLite knows SQLite's extended result codes, as modernc.org/sqlite reports them.
func patienceWithSQLite(code int) patience {
	const (
		tooBig, mismatch          = 18, 20
		check, notNull, datatype  = 275, 1299, 3091
		primaryKey, unique, rowID = 1555, 2067, 2579
	)
	switch code {
	case tooBig, mismatch, check, notNull, datatype:
		return none
	case primaryKey, unique, rowID:
		return limited
	default:
		return endless
	}
}
