package outbox

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"

	"github.com/cqrsync/cqrsync/internal/db"
)

// errTooLarge says that rows are more than may be held at once. Half of them may be less.
var errTooLarge = errors.New("more bytes than are held at once")

// inHalves does something with all items, and where a row is at fault with each half of them, down
// to the items that are: bad gets those, and may say that it was something else.
func inHalves[T any](items []T, do func([]T) error, bad func(item T, err error) error) error {
	if len(items) == 0 {
		return nil
	}
	err := do(items)
	switch {
	case err == nil || !rowAtFault(err):
		return err
	case len(items) == 1:
		return bad(items[0], err)
	}
	half := len(items) / 2
	if err := inHalves(items[:half], do, bad); err != nil {
		return err
	}
	return inHalves(items[half:], do, bad)
}

// rowAtFault says that an error may be of what some row holds, so that other rows can be had: it is
// no trouble with the database, the connection or the statement.
func rowAtFault(err error) bool {
	if state := db.SQLState(err); state != "" {
		return strings.HasPrefix(state, "22") // a value that some expression does not take
	}
	if db.SQLiteCode(err) != 0 || errors.As(err, new(net.Error)) ||
		errors.As(err, new(*db.LockedError)) {
		return false
	}
	for _, other := range []error{
		context.Canceled, context.DeadlineExceeded, driver.ErrBadConn, sql.ErrConnDone, sql.ErrTxDone,
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, ErrNotMigrated,
	} {
		if errors.Is(err, other) {
			return false
		}
	}
	return true
}
